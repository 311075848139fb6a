// Package datasets holds the tables of the pipeline and the stores they live in.
//
// A [Table] is one Arrow record batch of a declared [Kind]: problems, rollouts,
// scores and so on. Stages read and write its columns through typed keys such as
// [Reward] or [CompletionIDs], never through strings. A table travels as an Arrow
// IPC file under the SHA-256 of its bytes, and a [Ref], a few bytes long, is its
// address: only Refs pass through workflow history.
//
// A [Store] keeps objects in memory, in a folder or in an S3 bucket. [Do] makes a
// computation durable: its [Lineage] is hashed to a key, the key is looked up
// first, and the first result recorded under it is the result for ever.
//
// Layout of a store:
//
//	objects/<sha-256>.arrow             tables
//	objects/<sha-256>                   blobs (weights, tokenizers, manifests)
//	keys/<scope|shared>/<stage>/<key>.json   results by lineage
//	problems/<name>/<version>.json      published names
package datasets
