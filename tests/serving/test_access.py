"""Who gets through a real Envoy with the access filters, under which name, how often, and what the others are told."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from reverie_client import credentials, headers

from serving.door.access import access, access_of
from serving.door.configuration import envoy_configuration
from serving.door.envoy import validate
from serving.door.errors import DoorError
from serving.door.keys import KeyFile, digest
from serving.door.limits import HEADER, CallerLimits
from serving.door.settings import DoorSettings, TokenIssuer
from tests.serving.doors_with_stubs import INFER, LIVE, LOAD, STREAM, infer, open_door, wait_until

EVERYWHERE = ["authorization", "x-api-key", "reverie-api-key", "triton-grpc-protocol-reverie-api-key"]
REPOSITORY_INDEX = "/inference.GRPCInferenceService/RepositoryIndex"


def bearer(key):
    return "authorization", f"Bearer {key}"


@dataclasses.dataclass
class Keys:
    """A key of each kind, and the file that has them."""

    file: KeyFile
    plain: str
    stylize_only: str
    small: str
    admin: str


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")
    return Keys(
        file,
        plain=file.add("plain", streams=8),
        stylize_only=file.add("stylize-only", models=("stylize",)),
        small=file.add("small", body_mib=1),
        admin=file.add("admin", admin=True),
    )


@pytest.fixture(scope="module")
def door(keys, tmp_path_factory):
    """Tests that change keys use names of their own."""
    with open_door(tmp_path_factory.mktemp("door"), keys.file) as opened:
        yield opened


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_key_is_found_in_each_of_its_headers_over_grpc_and_http(door, keys, name):
    value = f"Bearer {keys.plain}" if name == "authorization" else keys.plain
    assert door.call((name, value))[headers.CLIENT] == "plain"
    for spelled in (name, name.upper(), name.title()):
        status, _, arrived = door.http("/v1/stylize", {spelled: value})
        assert (status, arrived[headers.CLIENT]) == (200, "plain")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_word_before_a_key_may_be_spelled_in_any_case(door, keys, scheme):
    assert door.status(("authorization", f"{scheme} {keys.plain}"))[0] == "OK"


def test_what_reverie_client_sends_is_a_key_here(door, keys):
    assert door.call(*credentials.metadata(headers.API_KEY, keys.plain))[headers.CLIENT] == "plain"


def test_who_calls_is_said_by_the_key_alone_and_the_key_goes_no_further(door, keys):
    claimed = {headers.CLIENT: "admin", HEADER: CallerLimits(admin=True).header(), "x-api-key": keys.plain}
    over_grpc, over_http = door.call(*claimed.items()), door.http("/v1/stylize", claimed)[2]
    for arrived in (over_grpc, over_http):
        assert arrived[headers.CLIENT] == "plain"
        assert keys.plain not in str(arrived)
    assert CallerLimits.from_metadata(over_http) == CallerLimits(streams=8)
    assert not set(EVERYWHERE) & set(over_http)
    assert door.status(*claimed.items(), method=LOAD)[0] == "PERMISSION_DENIED"


def test_a_name_that_is_claimed_twice_is_taken_away_twice(door, keys):
    arrived = door.call(bearer(keys.plain), (headers.CLIENT, "admin"), (headers.CLIENT, "root"))
    assert arrived[headers.CLIENT] == "plain"


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ([], "there is no key"),
        ([bearer("wrong")], "nobody has this key"),
        ([("x-api-key", "")], "the key has 0 characters"),
        ([("x-api-key", "x" * 513)], "the key has 513 characters"),
        ([("x-api-key", "x" * 20_000)], "the key has 20000 characters"),
        ([("authorization", "Basic cGxhaW46eA==")], "no single key"),
        ([("authorization", "Bearer")], "no single key"),
        ([("authorization", "")], "no single key"),
        ([("authorization", "Bearer {key} {key}")], "no single key"),
        ([("authorization", "{key}")], "no single key"),
        ([bearer("{key}"), bearer("{key}")], "no single key"),
        ([bearer("{key}"), bearer("wrong")], "no single key"),
        ([bearer("{key}"), ("x-api-key", "{key}")], "2 keys"),
        ([bearer("wrong"), ("x-api-key", "{key}")], "2 keys"),
        ([("x-api-key", "{key}"), ("x-api-key", "{key}")], "key"),
        ([("x-api-key", "{key}x")], "nobody has this key"),
        ([("x-api-key", "{hash}")], "nobody has this key"),
        ([("x-api-key", "key:{hash}")], "nobody has this key"),
        ([("x-api-key", "a\"b\\c%41")], "nobody has this key"),
    ],
)  # fmt: skip
def test_without_exactly_one_right_key_a_caller_is_told_what_is_accepted(door, keys, metadata, said):
    shown = [(name, value.format(key=keys.plain, hash=digest(keys.plain))) for name, value in metadata]
    code, message = door.status(*shown)
    assert code == "UNAUTHENTICATED"
    assert said in message
    assert "accepted: one key, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'" in message
    assert keys.plain not in message


def test_over_http_the_refusal_is_json_and_names_the_scheme(door):
    status, answered, said = door.http("/v1/stylize", {"x-api-key": "wrong"})
    assert (status, answered["content-type"], answered["www-authenticate"]) == (401, "application/json", "Bearer")
    assert said["error"]["code"] == "invalid_api_key"
    assert said["error"]["message"].startswith("nobody has this key")


def test_a_key_too_long_for_any_header_is_refused_and_the_next_call_is_answered(door, keys):
    assert door.http("/v1/stylize", {"x-api-key": "x" * 200_000})[0] in (401, 431)
    assert door.status(bearer(keys.plain))[0] == "OK"


def test_bytes_that_no_header_carries_open_nothing(door):
    for value in (b"\xff\xfe", b"\0", b"Bearer \xc3\xa4", b"Bearer a\x01b"):
        with socket.create_connection((door.settings.http.host, door.settings.http.port), timeout=10) as plain:
            plain.sendall(
                b"GET /v1/stylize HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: " + value + b"\r\n\r\n"
            )
            status = plain.makefile("rb").readline().split()[1]
        assert status in (b"400", b"401")


def test_whether_the_server_is_well_may_be_asked_without_a_key_but_not_under_a_name(door):
    assert headers.CLIENT not in door.call((headers.CLIENT, "admin"), method=LIVE)
    assert headers.CLIENT not in door.http("/healthz", {headers.CLIENT: "admin"})[2]
    assert door.http("/healthz?x=1")[0] == 200
    assert door.http("/healthzz")[0] == 401
    assert door.http("/healthz/../v1/stylize")[0] == 401


def test_hashes_are_those_of_python_for_keys_of_every_length(door, keys):
    shown = ["k" * length for length in (1, 31, 54, 55, 56, 57, 63, 64, 65, 118, 119, 120, 127, 128, 511, 512)] + [
        "~!@$^&*(=" * 9
    ]
    whole = keys.file.path.read_text()
    entries = {f"k{i}": {"sha256": digest(key)} for i, key in enumerate(shown)}
    keys.file.path.write_text(json.dumps({"keys": {**json.loads(whole)["keys"], **entries}}))
    wait_until(lambda: door.status(("x-api-key", shown[-1]))[0] == "OK")
    assert [door.call(("x-api-key", key))[headers.CLIENT] for key in shown] == list(entries)
    keys.file.path.write_text(whole)


def test_a_key_opens_the_models_that_it_is_for(door, keys):
    key = {"x-api-key": keys.stylize_only}
    for path in (
        "/v1/stylize",
        "/v1/styl%69ze/",
        "/v1/styles",
        "/v1/images/edits",
        "/v1/models",
        "/v2/models/stylize/infer",
    ):
        assert door.http(path, key)[0] == 200
    assert door.status(bearer(keys.stylize_only))[0] == "OK"


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("ModelInfer", infer("generate")),
        ("ModelInfer", infer("stylize") + infer("generate")),  # Of a field that is given twice, the last counts.
        ("ModelInfer", infer("")),
        ("ModelMetadata", b"\n\x08generate"),
        ("ModelConfig", b"\n\x08generate"),
        ("ModelStatistics", b""),
    ],
)
def test_over_grpc_too_a_key_limited_to_one_model_reaches_no_other(door, keys, method, body):
    path = f"/inference.GRPCInferenceService/{method}"
    code, message = door.status(bearer(keys.stylize_only), method=path, body=body)
    assert code == "PERMISSION_DENIED"
    assert message.endswith("accepted: the models stylize")
    assert door.status(bearer(keys.plain), method=path, body=body)[0] == "OK"


def test_each_message_of_a_stream_is_for_a_model_that_its_key_opens(door, keys):
    messages = iter([infer("stylize"), infer("generate")])
    stream = door.channel.stream_stream(STREAM)(messages, metadata=[bearer(keys.stylize_only)], timeout=10)
    with pytest.raises(grpc.RpcError) as refused:
        list(stream)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_calls_at_the_same_time_are_as_many_as_the_key_may_have_and_another_key_is_not_held_up(door, keys):
    two = keys.file.add("two", streams=2)
    wait_until(lambda: door.status(bearer(two))[0] == "OK")
    method, metadata = door.channel.unary_unary(INFER), [bearer(two)]
    running = [method.future(infer("slow"), metadata=metadata, timeout=30) for _ in range(2)]
    wait_until(lambda: door.status(bearer(two))[0] == "RESOURCE_EXHAUSTED")
    with pytest.raises(grpc.RpcError) as refused:
        door.call(bearer(two))
    assert dict(refused.value.trailing_metadata())["retry-after"] == "1"
    assert "accepted: 2 at the same time" in refused.value.details()
    assert door.status(bearer(keys.plain))[0] == "OK"
    running[0].cancel()  # Triton still works at it.
    assert door.status(bearer(two))[0] == "RESOURCE_EXHAUSTED"
    door.let_go.set()
    running[1].result()
    wait_until(lambda: door.status(bearer(two))[0] == "OK")


def test_a_stream_that_its_caller_leaves_gives_its_place_back(door, keys):
    one = keys.file.add("one", streams=1)
    wait_until(lambda: door.status(bearer(one))[0] == "OK")
    held = threading.Event()

    def messages():
        yield infer("stylize")
        held.wait(10)

    stream = door.channel.stream_stream(STREAM)(messages(), metadata=[bearer(one)], timeout=30)
    next(stream)
    assert door.status(bearer(one))[0] == "RESOURCE_EXHAUSTED"
    stream.cancel()
    wait_until(lambda: door.status(bearer(one))[0] == "OK")
    held.set()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions", "/v1/completions/", "/v1/completions?a=1", "/v1/c%6fmpletions", "//v1/completions", "/v1/./completions",
        "/v1/stylize/../completions", "/v1/COMPLETIONS", "/v1/score", "/v1/dream", "/v1/transfer", "/v2/models/generate/infer",
        "/v2/models/generate", "/v2/models/styliz%65x/infer", "/v1/anything", "/",
    ],
)  # fmt: skip
def test_a_key_limited_to_one_model_reaches_no_other_however_the_path_is_written(door, keys, path):
    status, _, said = door.http(path, {"x-api-key": keys.stylize_only})
    assert status == 403
    assert said["error"]["message"].endswith("accepted: the models stylize")
    assert door.http(path, {"x-api-key": keys.plain})[0] == 200


def test_a_caller_cannot_say_that_he_came_to_the_other_listener(door, keys):
    assert door.http("/v1/models", {"x-api-key": keys.plain, "reverie-listener": "grpc"})[2]["path"] == "/v1/models"
    assert door.status(bearer(keys.plain), ("reverie-listener", "http"))[0] == "OK"


@pytest.mark.parametrize("method", [LOAD, REPOSITORY_INDEX])
def test_models_are_controlled_with_an_admins_key_only(door, keys, method):
    assert door.status(bearer(keys.plain), method=method) == (
        "PERMISSION_DENIED",
        "the key plain may not control models; accepted: a key made with --admin",
    )
    assert door.status(bearer(keys.admin), method=method)[0] == "OK"  # Without a control key.
    assert (
        door.status(bearer(keys.plain), ("triton-grpc-protocol-reverie-control", "control"), method=method)[0] != "OK"
    )
    assert door.http("/v2/repository/index", {"x-api-key": keys.plain})[0] == 403


def test_a_body_larger_than_its_key_may_send_is_refused_before_it_is_read(door, keys):
    key = {"x-api-key": keys.small}
    assert door.http("/v1/stylize", key, b"x" * 2**20)[0] == 200
    status, _, said = door.http("/v1/stylize", key, b"x" * (2**20 + 1))
    assert (status, said["error"]["message"]) == (413, "1048577 bytes; accepted: at most 1 MiB with the key small")
    code, said = door.status(bearer(keys.small), body=infer("stylize", 2**20 + 1))
    assert (code, said.endswith("accepted: at most 1 MiB with the key small")) == ("RESOURCE_EXHAUSTED", True)
    assert door.status(bearer(keys.small), body=infer("stylize", 2**20 - 100))[0] == "OK"


def test_a_body_of_unknown_length_needs_a_key_without_a_bound(door, keys):
    body = f"http://{door.settings.http}/v1/stylize"
    command = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        "transfer-encoding: chunked",
        "-d",
        "x",
        body,
    ]
    assert subprocess.check_output([*command, "-H", f"x-api-key: {keys.small}"], text=True) == "411"


def test_a_key_that_is_added_rotated_or_revoked_counts_within_two_seconds_and_streams_go_on(door, keys):
    send = threading.Event()

    def messages():
        yield infer("stylize")
        send.wait(30)
        yield infer("stylize")

    stream = door.channel.stream_stream(STREAM)(messages(), metadata=[bearer(keys.plain)], timeout=30)
    next(stream)
    first = keys.file.add("newcomer")
    wait_until(lambda: door.status(bearer(first))[0] == "OK")
    second = keys.file.rotate("newcomer")
    wait_until(lambda: door.status(bearer(first))[0] == "UNAUTHENTICATED")
    assert door.call(bearer(second))[headers.CLIENT] == "newcomer"
    keys.file.revoke("newcomer")
    wait_until(lambda: door.status(bearer(second))[0] == "UNAUTHENTICATED")
    send.set()
    assert json.loads(next(stream))[headers.CLIENT] == "plain"


def test_a_broken_key_file_is_told_of_and_the_keys_from_before_stay(door, keys):
    whole = keys.file.path.read_text()
    for broken in (whole[:40], '{"keys": {"plain": {"sha256": "x"}}}'):
        door.said.clear()
        keys.file.path.write_text(broken)
        wait_until(lambda: "the door keeps its old configuration" in "".join(door.said))
        assert door.status(bearer(keys.plain))[0] == "OK"
    keys.file.path.write_text(whole)
    keys.file.path.chmod(0o620)
    wait_until(lambda: "can be written by other users" in door.said[-1])
    keys.file.path.chmod(0o600)
    wait_until(lambda: "taken over" in door.said[-1])
    keys.file.path.unlink()
    wait_until(lambda: "there is no key file" in door.said[-1])
    assert door.status(bearer(keys.plain))[0] == "OK"
    keys.file.path.write_text(whole)
    keys.file.path.chmod(0o600)
    key = keys.file.add("after-the-fault")
    wait_until(lambda: door.status(bearer(key))[0] == "OK")


def test_no_process_list_and_no_log_shows_a_key(door, keys):
    door.status(bearer(keys.plain))
    commands = "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    logged = door.door.log.read_text() + "".join(door.said)
    written = "".join(file.read_text() for file in door.settings.folder.glob("*.json"))
    for key in (keys.plain, keys.admin, keys.small):
        assert key not in commands + logged + written
    assert digest(keys.plain) not in commands + logged


def test_a_quota_is_kept_over_both_protocols_and_says_when_to_come_again(door, keys):
    key = keys.file.add("slow", quota="2/h")
    wait_until(lambda: door.http("/v1/models", {"x-api-key": key})[0] == 200)
    assert door.status(bearer(key))[0] == "OK"
    with pytest.raises(grpc.RpcError) as refused:
        door.call(bearer(key))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details().startswith("the key slow has used up its quota of 2/h; try again after ")
    after = dict(refused.value.trailing_metadata())["retry-after"]
    assert 1 <= int(after) <= 3600
    status, answered, said = door.http("/v1/models", {"x-api-key": key})
    assert (status, said["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(answered["retry-after"]) <= 3600
    assert "2/h; try again after" in said["error"]["message"]
    assert "reverie-refused" not in answered


def test_a_greedy_key_at_ten_times_its_quota_leaves_another_keys_calls_untouched(door, keys):
    greedy, modest = keys.file.add("greedy", quota="20/s"), keys.file.add("modest", quota="100/s")
    wait_until(lambda: door.status(bearer(modest))[0] == "OK" and door.status(bearer(greedy))[0] == "OK")
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(door.status, bearer(greedy)) for _ in range(200)]
        answers = [door.status(bearer(modest))[0] for _ in range(50)]
        let_in = sum(call.result()[0] == "OK" for call in asked)
    assert answers == ["OK"] * 50
    assert let_in <= 20 * (1 + time.monotonic() - started) + 1
    assert {call.result()[0] for call in asked} == {"OK", "RESOURCE_EXHAUSTED"}


def test_where_the_script_fails_nobody_is_let_in(tmp_path):
    """Envoy goes on with a request whose script has failed."""
    file = KeyFile(tmp_path / "keys.json")
    key = file.add("alice")

    def faulty(settings, listener):
        whole = access_of(settings, listener)
        context = {"mode": "keys", f"key:{digest(key)}": 7}
        check = {**whole.per_route["reverie.access"], "filter_context": context}
        return dataclasses.replace(whole, per_route={**whole.per_route, "reverie.access": check})

    with open_door(tmp_path, file, access=faulty) as opened:
        assert opened.status(bearer(key))[0] == "PERMISSION_DENIED"
        assert opened.http("/v1/stylize", {"x-api-key": key})[0] == 403
    assert "script log" in (tmp_path / "log").read_text()


def test_without_keys_a_caller_is_called_by_his_address_or_on_this_machine_as_he_says(tmp_path):
    with open_door(tmp_path) as opened:
        assert opened.call()[headers.CLIENT] == "127.0.0.1"
        assert opened.call((headers.CLIENT, "shop"))[headers.CLIENT] == "shop"
        assert opened.call((headers.CLIENT, "x" * 129))[headers.CLIENT] == "127.0.0.1"
        forged = {HEADER: CallerLimits(admin=True).header(), "x-forwarded-for": "192.0.2.7"}
        arrived = opened.http("/v1/stylize", forged)[2]
        assert (arrived[headers.CLIENT], CallerLimits.from_metadata(arrived)) == ("127.0.0.1", CallerLimits())
        assert opened.status(*forged.items(), method=LOAD)[0] == "UNAUTHENTICATED"


def test_callers_from_elsewhere_are_called_by_their_address_and_cannot_name_themselves(tmp_path):
    """Another machine is played by a proxy that Envoy is made to trust."""
    with open_door(tmp_path) as opened:
        listeners = json.loads((opened.settings.folder / "listeners.json").read_text())
        for listener in listeners["resources"]:
            listener["filter_chains"][0]["filters"][0]["typed_config"]["xff_num_trusted_hops"] = 1
        opened.door.envoy.write({"listeners.json": listeners})

        def name(address):
            said = {"x-forwarded-for": address, headers.CLIENT: "somebody"}
            return opened.http("/v1/stylize", said)[2][headers.CLIENT]

        wait_until(lambda: name("192.0.2.7") == "192.0.2.7", seconds=10)
        assert name("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::"
        assert name("2001:db8::7") == name("2001:db8::8") == "2001:db8:0:0::"
        assert name("::ffff:192.0.2.7") == "192.0.2.7"


def test_a_key_file_without_keys_lets_nobody_in(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    key = file.add("alice")
    file.revoke("alice")
    with open_door(tmp_path, file) as opened:
        assert opened.status(bearer(key))[0] == "UNAUTHENTICATED"
        assert opened.status(method=LIVE)[0] == "OK"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key_set(private):
    numbers = private.public_key().public_numbers()
    parts = {"n": base64url(numbers.n.to_bytes(256, "big")), "e": base64url(numbers.e.to_bytes(3, "big"))}
    return json.dumps({"keys": [{"kty": "RSA", "kid": "1", "alg": "RS256", **parts}]})


def token(private, **changed):
    claims = {
        "iss": "https://issuer.example",
        "aud": "reverie",
        "sub": "carol",
        "exp": int(time.time()) + 600,
    } | changed
    parts = [{"alg": "RS256", "kid": "1"}, {name: value for name, value in claims.items() if value is not None}]
    signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{base64url(private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


@pytest.fixture(scope="module")
def signer():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def token_door(tmp_path_factory, signer):
    folder = tmp_path_factory.mktemp("tokens")
    jwks = folder / "jwks.json"
    jwks.write_text(key_set(signer))
    file = KeyFile(folder / "keys.json")
    issuer = TokenIssuer(str(jwks), "https://issuer.example", "reverie")
    key = file.add("with-a-key")
    with open_door(folder, file, issuer) as opened:
        yield opened, key


def test_a_token_lets_its_subject_in_under_that_name_beside_those_with_keys(token_door, signer):
    door, key = token_door
    arrived = door.call(bearer(token(signer)), (headers.CLIENT, "with-a-key"))
    assert arrived[headers.CLIENT] == "carol"
    assert door.http("/v1/stylize", {"Authorization": f"bearer {token(signer)}"})[2][headers.CLIENT] == "carol"
    assert door.call(bearer(key))[headers.CLIENT] == "with-a-key"
    assert door.status(bearer(token(signer)), method=LOAD)[0] == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": 1_000_000_000}, "expired"),
        ({"exp": None}, "the token is not accepted"),
        ({"nbf": 4_000_000_000}, "the token is not accepted"),
        ({"iss": "https://other.example"}, "issuer"),
        ({"aud": "other"}, "Audiences"),
        ({"sub": None}, "the token's sub is no name"),
        ({"sub": ""}, "the token's sub is no name"),
        ({"sub": "a b"}, "the token's sub is no name"),
        ({"sub": "x" * 129}, "the token's sub is no name"),
        ({"sub": 7}, "the token is not accepted"),
    ],
)
def test_a_token_that_does_not_count_is_refused_with_the_reason(token_door, signer, claims, said):
    door, _ = token_door
    code, message = door.status(bearer(token(signer, **claims)))
    assert code == "UNAUTHENTICATED"
    assert said in message


def test_a_token_of_another_signer_without_a_signature_or_elsewhere_than_in_authorization_lets_nobody_in(
    token_door, signer
):
    door, _ = token_door
    other = rsa.generate_private_key(65537, 2048)
    head, body, _ = token(signer).split(".")
    unsigned = f"{base64url(json.dumps({'alg': 'none'}).encode())}.{body}."
    for shown in (
        token(other),
        f"{head}.{body}.",
        unsigned,
        f"{head}.{body}.AAAA",
        "a.b.c",
        "..",
        token(signer) + ".x",
    ):
        assert door.status(bearer(shown))[0] == "UNAUTHENTICATED"
    assert door.status(("x-api-key", token(signer)))[0] == "UNAUTHENTICATED"
    assert door.status(bearer(token(signer)), ("x-api-key", "a.b.c"))[0] == "UNAUTHENTICATED"
    assert door.http(f"/v1/stylize?access_token={token(signer)}")[0] == 401


def test_the_issuers_keys_are_fetched_from_an_address(tmp_path, signer):
    class Keys(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(key_set(signer).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        issuer = TokenIssuer(f"http://127.0.0.1:{server.server_address[1]}/jwks", audience="reverie")
        with open_door(tmp_path, None, issuer) as opened:
            wait_until(lambda: opened.status(bearer(token(signer)))[0] == "OK", seconds=10)
            assert opened.status()[0] == "UNAUTHENTICATED"
        server.shutdown()


def test_an_address_over_tls_is_trusted_as_the_machine_trusts_it(tmp_path):
    found = access(None, TokenIssuer("https://issuer.example/jwks"))
    validate(envoy_configuration(DoorSettings(tmp_path), found, found))
    names = found.clusters[0]["transport_socket"]["typed_config"]
    assert names["sni"] == "issuer.example"


def test_a_file_of_the_issuers_keys_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DoorError, match=r"no file; accepted: a file with the issuer's public keys \(JWKS\)"):
        TokenIssuer(str(tmp_path / "none.json"))
