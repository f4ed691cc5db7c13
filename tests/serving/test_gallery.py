from serving.demo.gallery import Picture, render
from serving.demo.run import Result


def test_a_job_s_pictures_and_time_are_on_the_page():
    pictures = [Picture("a.jpg", "the photograph"), Picture("m.jpg", "step 6"), Picture("b.jpg", "the result")]
    page = render([Result("deepdream", ok=True, seconds=3.21, messages=36, pictures=pictures)], 1.0, 9.0)
    assert "3.2 s, 36 messages before the last" in page
    assert [page.index(f'src="{p.file}"') for p in (pictures[0], pictures[2], pictures[1])] == sorted(
        page.index(f'src="{p.file}"') for p in pictures
    )


def test_generated_text_is_escaped():
    page = render([Result("generate", ok=True, texts={"1.0": "<script>alert(1)</script>"})], 1.0, 9.0)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_failed_job_says_why():
    assert "This part failed: Boom: x" in render([Result("style", error="Boom: x")], 1.0, 9.0)


def test_the_summary_counts_messages_of_streams_only():
    assert "messages" not in Result("style", ok=True).summary()
    assert Result("deepdream", ok=True, messages=4).summary()["messages"] == 4
