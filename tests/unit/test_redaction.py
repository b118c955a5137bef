"""No secret gets into the results."""

from pytest_multiitem.untrusted.secrets import redacted, redacted_command


def test_keys_that_name_a_secret_lose_their_values():
    info = {"api_key": "K1", "admin_api_key": "K2", "tokenizer_path": "p", "hf_token": None, "max_total_tokens": 5,
            "internal_states": [{"api_key": "K1", "dtype": "float32"}]}  # fmt: skip
    shown = redacted(info)
    assert "K1" not in str(shown) and "K2" not in str(shown)
    assert shown["tokenizer_path"] == "p" and shown["max_total_tokens"] == 5 and shown["hf_token"] is None
    assert shown["internal_states"][0]["dtype"] == "float32" and info["api_key"] == "K1"


def test_flags_that_name_a_secret_lose_their_values():
    command = ["python", "--api-key", "K1", "--port", "5", "--admin-api-key=K2", "--tokenizer-path", "p"]
    assert redacted_command(command) == [
        "python", "--api-key", "[redacted]", "--port", "5", "--admin-api-key=[redacted]", "--tokenizer-path", "p",
    ]  # fmt: skip
