// Package policy is the language model that is trained: a decoder of the
// architectures Qwen2, Qwen3, Llama and Mistral, its tokenizer, sampling,
// scoring, the clipped policy-gradient update, and checkpoints in the Hugging
// Face layout.
//
// Everything a checkpoint holds is plain data of this package (Config,
// Weights, Tokenizer, State), read and written without a computing backend;
// Engine and Trainer compute with it. The update is blind to algorithms: it
// sees advantages, weights and masks per token, never their origin.
package policy
