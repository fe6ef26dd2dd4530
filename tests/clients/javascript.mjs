// The page's examples, and what goes wrong, by each JavaScript SDK: `javascript.mjs` lists the cases, `javascript.mjs
// CASE BASE_URL` runs one. It fails by an exception.

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { Portkey } from 'portkey-ai';

const [, , wanted, baseURL] = process.argv;

const MODEL = 'gpt-3.5-turbo-instruct';
const BASIC = { model: MODEL, prompt: 'Write a tagline for an ice cream shop.', max_tokens: 20 };
const SEVERAL = { model: MODEL, prompt: 'Complete this sentence: The future of AI is', max_tokens: 30, n: 3 };
const STREAMED = { model: MODEL, prompt: 'Write a short poem about coding', max_tokens: 50 };
const STOPPED = { model: MODEL, prompt: 'List three programming languages:\n1.', max_tokens: 50, stop: ['\n4.'] };
// What the emulator answers to `BASIC`.
const TAGLINE = ' Sweet treats for every occasion!';

const ONCE = { baseURL, maxRetries: 0, timeout: 10000 };
const SDKS = {
  openai: ({ key = 'sk-demo', provider = 'openai' } = {}) =>
    new OpenAI({ ...ONCE, apiKey: key, defaultHeaders: { 'x-portkey-provider': provider } }),
  portkey: ({ key = 'sk-demo', provider = 'openai', ...others } = {}) =>
    new Portkey({ baseURL, Authorization: key, provider, ...others }),
};

// Fills `chunks`, so that those before an error are seen too.
async function stream(client, parameters, chunks = []) {
  for await (const chunk of await client.completions.create({ ...parameters, stream: true })) {
    // Portkey's SDK hands out an error event as if it were a chunk.
    if (chunk.error) throw new Error(chunk.error.message);
    chunks.push(chunk);
  }
  return chunks;
}

const text = (chunks) => chunks.map((chunk) => chunk.choices[0].text).join('');

const ofEach = {
  async 'the basic example gives a text'(connect) {
    const { object, choices, usage } = await connect().completions.create(BASIC);
    assert.equal(object, 'text_completion');
    assert.equal(choices[0].text, TAGLINE);
    assert.equal(choices[0].finish_reason, 'stop');
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  },

  async 'three completions come as three choices'(connect) {
    const { choices } = await connect().completions.create(SEVERAL);
    assert.deepEqual(choices.map((choice) => choice.index), [0, 1, 2]);
    assert.equal(new Set(choices.map((choice) => choice.text)).size, 3);
  },

  async 'a stop sequence ends the text before it'(connect) {
    assert.ok((await connect().completions.create(STOPPED)).choices[0].text);
    const { choices } = await connect().completions.create({ ...BASIC, stop: [' every'] });
    assert.equal(choices[0].text, ' Sweet treats for');
    assert.equal(choices[0].finish_reason, 'stop');
  },

  async 'a stream brings the text of the whole and one finish reason'(connect) {
    const chunks = await stream(connect(), STREAMED);
    const whole = (await connect().completions.create(STREAMED)).choices[0];
    assert.ok(chunks.length > 2);
    assert.equal(text(chunks), whole.text);
    const reasons = chunks.map((chunk) => chunk.choices[0].finish_reason).filter(Boolean);
    assert.deepEqual(reasons, [whole.finish_reason]);
  },

  async 'a stream tells its usage only if asked'(connect) {
    assert.ok((await stream(connect(), STREAMED)).every((chunk) => !chunk.usage));
    const chunks = await stream(connect(), { ...STREAMED, stream_options: { include_usage: true } });
    const last = chunks.pop();
    assert.ok(chunks.every((chunk) => !chunk.usage));
    assert.deepEqual(last.choices, []);
    assert.deepEqual(last.usage, (await connect().completions.create(STREAMED)).usage);
  },

  async 'a wrong parameter is a bad request that names it'(connect) {
    const refused = (error) => {
      assert.equal(error.constructor.name, 'BadRequestError');
      // OpenAI's SDK unwraps the error, Portkey's hands out the whole body.
      assert.equal((error.error.error ?? error.error).param, 'temperature');
      return true;
    };
    await assert.rejects(async () => connect().completions.create({ ...BASIC, temperature: 9 }), refused);
    await assert.rejects(stream(connect(), { ...BASIC, temperature: 9 }), refused);
  },

  async 'a provider that is too busy is a rate limit error'(connect) {
    const asked = async () => connect({ key: 'sk-emulator?fault=status-429' }).completions.create(BASIC);
    await assert.rejects(asked, (error) => error.constructor.name === 'RateLimitError' && error.status === 429);
  },

  async 'a stream that breaks throws after what came before'(connect) {
    for (const provider of ['openai', 'anthropic']) {
      const whole = (await connect({ provider }).completions.create(STREAMED)).choices[0].text;
      for (const fault of ['cut', 'error-event']) {
        const chunks = [];
        // At a pace, so that the text is there before the fault is.
        const client = connect({ provider, key: `sk-emulator?fault=${fault}&rate=200` });
        await assert.rejects(stream(client, STREAMED, chunks));
        assert.ok(text(chunks) && whole.startsWith(text(chunks)));
        assert.ok(chunks.every((chunk) => !chunk.choices[0].finish_reason));
      }
    }
  },

  async 'a client that leaves a stream can ask again'(connect) {
    const client = connect({ key: 'sk-emulator?rate=20&tokens=200' });
    const long = { model: MODEL, prompt: 'x', max_tokens: 200, stream: true };
    for await (const chunk of await client.completions.create(long)) {
      assert.ok(chunk.choices[0].text);
      break;
    }
    assert.ok((await client.completions.create(BASIC)).choices[0].text);
  },
};

const alone = {
  async 'openai: an app needs only its base URL changed'() {
    const app = new OpenAI({ ...ONCE, apiKey: 'sk-app' });
    const { data, response, request_id } = await app.completions.create(BASIC).withResponse();
    assert.equal(data.choices[0].text, TAGLINE);
    assert.equal(response.headers.get('x-portkey-provider'), 'openai');
    assert.ok(response.headers.get('x-portkey-trace-id'));
    assert.ok(request_id);
    const models = await app.models.list();
    assert.deepEqual(models.data.map((model) => model.id), ['emulated-1']);
  },

  async 'portkey: a key without "Bearer" reaches the provider with it'() {
    const client = SDKS.portkey();
    assert.equal(client.customHeaders.authorization, 'sk-demo');
    const seen = await client.post('/echo', {});
    assert.equal(seen.headers.authorization, 'Bearer sk-demo');
  },

  async 'portkey: a model that is not named is the conf\'s'() {
    const { prompt, max_tokens } = BASIC;
    assert.equal((await SDKS.portkey().completions.create({ prompt, max_tokens })).model, MODEL);
  },

  async 'portkey: config, trace and metadata are taken'() {
    const config = { provider: 'anthropic', api_key: 'sk-demo' };
    const others = { config, traceID: 'trace-1', metadata: { _user: 'someone' } };
    const client = SDKS.portkey({ provider: undefined, key: undefined, ...others });
    const completion = await client.completions.create({ ...BASIC, model: 'claude-sonnet-4-5' });
    assert.equal(completion.getHeaders().provider, 'anthropic');
    assert.equal(completion.getHeaders()['trace-id'], 'trace-1');
    // The SDK asks for loose compliance by itself.
    assert.equal(completion.choices[0].native_finish_reason, 'end_turn');
  },
};

const cases = { ...alone };
for (const [sdk, connect] of Object.entries(SDKS)) {
  for (const [sentence, run] of Object.entries(ofEach)) cases[`${sdk}: ${sentence}`] = () => run(connect);
}

if (wanted) await cases[wanted]();
else console.log(Object.keys(cases).join('\n'));
