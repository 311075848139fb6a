// The official Node client against `gradus serve`: OPENAI_BASE_URL and
// OPENAI_API_KEY say where it is.
const assert = require('node:assert/strict');
const OpenAI = require('openai');

async function main() {
  const client = new OpenAI({ maxRetries: 0 });
  const { data: [model] } = await client.models.list();
  const ask = { model: model.id, max_tokens: 6, temperature: 1, seed: 7 };
  const one = await client.completions.create({ prompt: '12+3=', n: 2, logprobs: 1, return_token_ids: true, ...ask });
  assert.equal(one.choices.length, 2);
  for (const c of one.choices) assert.equal(c.token_ids.length, c.logprobs.token_logprobs.length);

  const text = ['', ''];
  const stream = await client.completions.create({ prompt: one.choices[0].prompt_token_ids, n: 2, stream: true, ...ask });
  for await (const chunk of stream) for (const c of chunk.choices) text[c.index] += c.text;
  assert.deepEqual(text, one.choices.map((c) => c.text));

  const messages = [{ role: 'user', content: [{ type: 'text', text: '12+3=' }] }];
  const chat = await client.chat.completions.create({ messages, logprobs: true, top_logprobs: 2, ...ask });
  assert.equal(chat.choices[0].message.content, one.choices[0].text);
  assert.equal(chat.choices[0].logprobs.content[0].top_logprobs.length, 2);
  const final = await client.chat.completions.stream({ messages, ...ask }).finalChatCompletion();
  assert.equal(final.choices[0].message.content, one.choices[0].text);

  await assert.rejects(client.completions.create({ prompt: '1', ...ask, model: 'other' }), OpenAI.NotFoundError);
  await assert.rejects(client.completions.create({ prompt: '1', ...ask, top_p: 3 }), OpenAI.BadRequestError);
  await assert.rejects(client.withOptions({ apiKey: 'wrong' }).models.list(), OpenAI.AuthenticationError);
  console.log('ok');
}

main().catch((e) => { console.error(e); process.exit(1); });
