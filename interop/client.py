"""The official Python client against `gradus serve`: OPENAI_BASE_URL and OPENAI_API_KEY say where it is."""

import openai

client = openai.OpenAI(max_retries=0)
[model] = client.models.list().data
assert client.models.retrieve(model.id).id == model.id

ask = dict(model=model.id, max_tokens=6, temperature=1, seed=7)
extra = {"return_token_ids": True}

# Completions: n, log-probabilities, token ids, and the same again by seed.
one = client.completions.create(prompt="12+3=", n=3, logprobs=2, extra_body=extra, **ask)
again = client.completions.create(prompt="12+3=", n=3, logprobs=2, extra_body=extra, **ask)
assert len(one.choices) == 3 and len({c.text for c in one.choices}) > 1, one
assert [c.text for c in one.choices] == [c.text for c in again.choices]
for c in one.choices:
    assert c.finish_reason in ("stop", "length")
    assert len(c.token_ids) == len(c.logprobs.token_logprobs) == len(c.logprobs.top_logprobs) <= 6
    assert all(p <= 0 for p in c.logprobs.token_logprobs)
assert one.usage.completion_tokens == sum(len(c.token_ids) for c in one.choices)

# A prompt of token ids is the prompt of their text.
ids = client.completions.create(prompt=one.choices[0].prompt_token_ids, n=3, **ask)
assert [c.text for c in ids.choices] == [c.text for c in one.choices]

# Streamed, it is the same text.
text = ["", "", ""]
usage = None
for chunk in client.completions.create(prompt="12+3=", n=3, stream=True, stream_options={"include_usage": True}, **ask):
    for c in chunk.choices:
        text[c.index] += c.text
    usage = chunk.usage or usage
assert text == [c.text for c in one.choices], text
assert usage.completion_tokens == one.usage.completion_tokens

# Chats.
messages = [{"role": "user", "content": "12+3="}]
chat = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=2, extra_body=extra, **ask)
assert chat.choices[0].message.content == one.choices[0].text
assert [t.logprob for t in chat.choices[0].logprobs.content] == one.choices[0].logprobs.token_logprobs
assert all(len(t.top_logprobs) == 2 for t in chat.choices[0].logprobs.content)
assert chat.prompt_token_ids == one.choices[0].prompt_token_ids
streamed = client.chat.completions.create(messages=messages, stream=True, **ask)
assert "".join(c.choices[0].delta.content or "" for c in streamed) == one.choices[0].text

# Refusals are the client's own errors.
for wrong, error in [
    (dict(model="other"), openai.NotFoundError),
    (dict(presence_penalty=1.5), openai.BadRequestError),
    (dict(max_tokens=100000), openai.BadRequestError),
    (dict(extra_body={"typo": 1}), openai.BadRequestError),
]:
    try:
        client.completions.create(prompt="1+1=", **{**ask, **wrong})
        raise AssertionError(f"{wrong} was accepted")
    except error as e:
        assert e.body["message"], e
try:
    client.with_options(api_key="wrong").models.list()
    raise AssertionError("a wrong key was accepted")
except openai.AuthenticationError:
    pass
print("ok")
