from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_eval.certificate import PAYLOAD_TYPE, key_id, sign
from unlearn_eval.certificate.envelope import UnverifiedError, open_envelope, pae

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
STATEMENT = {"a": "ü\n<b>", "n": [1, 2.5, None]}
ENVELOPE = sign(STATEMENT, KEY)
BYTES = json.dumps(ENVELOPE).encode()


def opened(envelope: Any, key: Ed25519PrivateKey = KEY) -> bytes:
    data = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    return open_envelope(data, key.public_key())


def test_pae_is_that_of_the_protocol() -> None:
    # the example of DSSE's protocol.md
    kind = "http://example.com/HelloWorld"
    assert pae(kind, b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "  # lengths count bytes


def test_a_round_trip() -> None:
    assert json.loads(opened(ENVELOPE)) == STATEMENT
    assert ENVELOPE["payloadType"] == PAYLOAD_TYPE
    assert [s["keyid"] for s in ENVELOPE["signatures"]] == [key_id(KEY.public_key())]
    url = ENVELOPE["payload"].translate(str.maketrans("+/", "-_"))
    assert opened(ENVELOPE | {"payload": url}) == opened(ENVELOPE)


def test_only_the_given_key_is_trusted() -> None:
    with pytest.raises(UnverifiedError, match="another key"):
        opened(ENVELOPE, OTHER)
    # signed by another key under this one's name, with that key sent along
    forged = sign(STATEMENT, OTHER)
    forged["signatures"][0]["keyid"] = key_id(KEY.public_key())
    forged["signatures"][0]["cert"] = OTHER.public_key().public_bytes_raw().hex()
    with pytest.raises(UnverifiedError, match="another key"):
        opened(forged)
    # a wrong name on a right signature is only a name
    renamed = copy.deepcopy(ENVELOPE)
    renamed["signatures"][0]["keyid"] = "nobody"
    assert opened(renamed) == opened(ENVELOPE)
    both = forged | {"signatures": [*forged["signatures"], *ENVELOPE["signatures"]]}
    assert opened(both) == opened(ENVELOPE)


def test_a_signature_of_something_else_does_not_fit() -> None:
    other = sign(STATEMENT | {"a": "other"}, KEY)
    with pytest.raises(UnverifiedError, match="does not fit"):
        opened(ENVELOPE | {"signatures": other["signatures"]})
    with pytest.raises(UnverifiedError, match="does not fit"):
        opened(ENVELOPE | {"payload": other["payload"]})


def test_another_kind_of_document_cannot_pass_for_a_certificate() -> None:
    payload = base64.b64decode(ENVELOPE["payload"])
    for signed in (pae("text/plain", payload), payload):
        signature = base64.b64encode(KEY.sign(signed)).decode()
        envelope = ENVELOPE | {"signatures": [{"keyid": "", "sig": signature}]}
        with pytest.raises(UnverifiedError, match="does not fit"):
            opened(envelope)
        with pytest.raises(UnverifiedError, match="another kind"):
            opened(envelope | {"payloadType": "text/plain"})


@pytest.mark.parametrize(
    "change",
    [
        {"payload": None},
        {"payload": "not base64!"},
        {"payload": ENVELOPE["payload"] + "\n"},
        {"payloadType": None},
        {"payloadType": PAYLOAD_TYPE.upper()},
        {"payloadType": "\ud800"},
        {"signatures": []},
        {"signatures": "x"},
        {"signatures": ["x"]},
        {"signatures": [{}]},
        {"signatures": [{"sig": ""}]},
        {"signatures": [{"sig": "é"}]},
    ],
)
def test_malformed_envelopes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnverifiedError):
        opened(ENVELOPE | change)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b'{"payload": NaN}', b'{"a": 1, "a": 2}'],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(UnverifiedError):
        opened(data)


@pytest.mark.parametrize(
    ("extra", "words"),
    [(b'"payload": "eA==", ', "a key appears twice"), (b'"a": NaN, ', "NaN is not JSON")],
)
def test_json_that_programs_read_differently_is_refused(extra: bytes, words: str) -> None:
    with pytest.raises(UnverifiedError, match=words):
        opened(b"{" + extra + BYTES[1:])


def test_numbers_that_json_has_not_are_not_signed() -> None:
    with pytest.raises(ValueError, match="JSON"):
        sign({"a": float("nan")}, KEY)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_mutation_fails_or_leaves_the_payload_as_it_was(data: st.DataObject) -> None:
    mutated = bytearray(BYTES)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(mutated)))
        end = data.draw(st.integers(start, min(len(mutated), start + 4)))
        mutated[start:end] = data.draw(st.binary(max_size=4))
    try:
        payload = opened(bytes(mutated))
    except UnverifiedError:
        return
    assert payload == opened(ENVELOPE)


@pytest.mark.parametrize("field", ["payload", "sig"])
def test_every_bit_of_payload_and_signature_counts(field: str) -> None:
    envelope = copy.deepcopy(ENVELOPE)
    place = envelope if field == "payload" else envelope["signatures"][0]
    content = base64.b64decode(place[field])
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        place[field] = base64.b64encode(changed).decode()
        with pytest.raises(UnverifiedError):
            opened(envelope)
