// Package tokenizer turns text into tokens and back as a tokenizer.json of
// Hugging Face describes it: the added tokens, the normalizer, the
// pre-tokenizer, byte-pair encoding, the post-processor and the decoder. Ids
// are those of Hugging Face's tokenizers library.
//
// Byte-level BPE (GPT-2, Qwen2, Qwen3, Llama 3) and SentencePiece's BPE with
// byte fallback (Llama 2, Mistral) are served. A component or a setting that is
// not is an error that names it, since a tokenizer that is nearly right trains
// a model that is quietly wrong.
package tokenizer
