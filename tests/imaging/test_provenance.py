"""How a picture says it was made: written into every kind of file and read back, and hostile files refused."""

from __future__ import annotations

import contextlib
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import reverie
from imaging import images, provenance, xmp
from imaging.provenance import SOFTWARE, SOURCE_TYPE, Provenance, parse, read
from reverie.errors import InputError
from tests.conftest import PROJECT

SAID = Provenance(
    model="style",
    version="7",
    manifest_sha256="ab" * 32,
    features="compact",
    features_sha256="cd" * 32,
    style='starry_night=0.667, "wave" & <poppies>\'=0.333',
    seed="9223372036854775807",
    parameters={"strength": 0.5, "styles": {"étoile\n<&\"']]>": 1.0}, "preserve_colors": True},
)
PICTURE = images.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8), 40, 50)
CAMERA = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Camera"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("format", images.FORMATS)
@pytest.mark.parametrize("alpha", [None, np.full((40, 50), 9, np.uint8)], ids=["opaque", "transparent"])
def test_a_picture_of_each_format_says_how_it_was_made(tmp_path, format, alpha):
    file = tmp_path / f"picture.{format}"
    file.write_bytes(images.encode(PICTURE, format, alpha=alpha, packet=SAID.packet()))
    assert read(file) == SAID
    assert images.read(file).shape == PICTURE.shape
    file.write_bytes(images.encode(PICTURE, format, alpha=alpha))
    assert read(file) is None


@pytest.mark.parametrize("ending", images.FILMS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_film_of_each_format_says_how_it_was_made(tmp_path, ending, count):
    file = tmp_path / f"film{ending}"
    images.write_film([PICTURE // (i + 1) for i in range(count)], file, packet=SAID.packet())
    assert read(file) == SAID
    with Image.open(file) as film:
        assert film.n_frames == count
        film.seek(count - 1)  # All frames can be decoded.
        assert np.abs(np.asarray(film.convert("RGB"), int) - PICTURE // count).mean() < 12


def test_a_packet_is_xmp_with_iptc_s_source_type_as_attributes_that_other_readers_know():
    text = SAID.packet().decode()
    assert text.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta ')
    assert 'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"' in text
    assert text.endswith('</x:xmpmeta><?xpacket end="w"?>')
    assert f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"' in text
    assert f'xmp:CreatorTool="{SOFTWARE}"' in text
    assert 'Iptc4xmpExt:AISystemVersionUsed="7"' in text


def test_the_same_is_said_in_the_same_bytes():
    assert SAID.packet() == SAID.packet()
    assert images.encode(PICTURE, packet=SAID.packet()) == images.encode(PICTURE, packet=SAID.packet())


@pytest.mark.slow
@given(st.text(), st.text(), st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text() | st.booleans()))
def test_any_text_is_escaped_and_comes_back_but_for_what_xml_cannot_say(style, model, parameters):
    said = Provenance(model=model, style=style, parameters=parameters)
    cannot = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
    found = parse(said.packet())
    assert (found.model, found.style) == (cannot.sub("\ufffd", model), cannot.sub("\ufffd", style))
    assert found.parameters == parameters


def test_what_would_not_fit_into_a_jpeg_is_left_out_and_the_mark_is_not(tmp_path):
    long = Provenance(model="style", style="s" * 100, parameters={"styles": {f"{i:0255}": 1.0 for i in range(256)}})
    endless = Provenance(model="style", style="s" * 100_000)
    for said, style in ((long, "s" * 100), (endless, "")):
        (tmp_path / "a.jpg").write_bytes(images.encode(PICTURE, "jpeg", packet=said.packet()))
        assert read(tmp_path / "a.jpg") == Provenance(model="style", style=style)


def test_another_program_s_source_type_is_read_too_written_as_an_element():
    other = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
      xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:a="http://ns.adobe.com/xap/1.0/">
      <e:DigitalSourceType> http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia </e:DigitalSourceType>
      <a:CreatorTool>Another</a:CreatorTool></rdf:Description></rdf:RDF>"""
    found = parse(other)
    assert (found.source_type.rsplit("/", 1)[1], found.software) == ("trainedAlgorithmicMedia", "Another")


def test_a_camera_s_xmp_says_nothing_of_how_a_picture_was_made(tmp_path):
    (tmp_path / "a.jpg").write_bytes(images.encode(PICTURE, "jpeg", packet=CAMERA))
    assert read(tmp_path / "a.jpg") is None


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha"}">' for i in range(10))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"no XML",
        b"\xff\xfe<\x00x\x00/\x00>\x00",
        f"<!DOCTYPE x [{LAUGHS}]><x>&l9;</x>".encode(),
        b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><x>&f;</x>',
        f"<!DOCTYPE x [{LAUGHS}]><x>&l9;</x>".encode("utf-16"),
        b"<x>" * 100_000,
        b'<x a="1" a="2"/>',
        b"<x>\x00</x>",
    ],
)
def test_hostile_xmp_is_refused_with_what_is_accepted(packet):
    with pytest.raises(InputError, match=r"the XMP is damaged .*accepted: XML in UTF-8 without document type"):
        parse(packet)


def test_deeply_nested_xmp_and_parameters_are_read():
    assert parse(b"<x>" * 50_000 + b"</x>" * 50_000) == Provenance(software="", source_type="")
    deep = Provenance(parameters={"a": 1}).packet().replace(b"{&quot;a&quot;: 1}", b"[" * 50_000)
    assert parse(deep).parameters == {}


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x00\x00\x00\x0cftypisom", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF"]),
)
def test_any_bytes_are_read_or_refused(data, head):
    with pytest.MonkeyPatch.context() as patch:
        file = io.BytesIO(head + data)
        patch.setattr("pathlib.Path.is_file", lambda self: True)
        patch.setattr("pathlib.Path.open", lambda self, mode: file)
        with contextlib.suppress(InputError):
            assert isinstance(xmp.find(PROJECT), bytes)


def test_a_box_is_found_behind_large_ones_and_a_damaged_size_ends_the_search(tmp_path):
    film = tmp_path / "a.mp4"
    box, wide = (
        b"\x00\x00\x00\x10free12345678",
        (1).to_bytes(4, "big") + b"mdat" + (24).to_bytes(8, "big") + b"12345678",
    )
    film.write_bytes(box + wide)
    assert read(film) is None
    xmp.append_box(film, SAID.packet())
    assert read(film) == SAID
    for damaged in (
        b"\x00\x00\x00\x04free",
        b"\x00\x00\x00\x00free",
        b"\x7f\xff\xff\xffuuid",
        b"\x00\x00\x00\x08free" * 20_000,
    ):
        film.write_bytes(box + damaged)
        assert read(film) is None


def test_a_packet_that_is_too_long_is_refused(tmp_path):
    film = tmp_path / "a.mp4"
    film.write_bytes(b"\x00\x00\x00\x08ftyp")
    xmp.append_box(film, b" " * (xmp.MAX_PACKET + 1))
    with pytest.raises(InputError, match="an XMP packet of 1048577 bytes; accepted: at most 1048576"):
        read(film)


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_none_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png"):
        read(tmp_path / "x.png")


def test_the_software_is_this_project_s_version():
    assert 'version = { attr = "reverie.__version__" }' in (PROJECT / "pyproject.toml").read_text()
    assert f"Reverie {reverie.__version__}" == SOFTWARE == provenance.SOFTWARE
