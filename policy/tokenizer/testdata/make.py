"""Makes the fixtures of this folder: small tokenizers with the components of
real ones, a corpus, and what Hugging Face's tokenizers library makes of it.

    pip install tokenizers==0.23.3 && python make.py

Run it by hand; the tests read what it wrote.
"""

import json
import pathlib
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
QWEN2 = HEAD + r"\p{N}" + TAIL
LLAMA3 = HEAD + r"\p{N}{1,3}" + TAIL
# GPT-4o's, which has no scanner written by hand.
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

PROSE = """Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips
did Natalia sell altogether in April and May? She'd sold 48/2 = <<48/2=24>>24 clips in May, so that's 48+24 = 72. #### 72
It isn't what we'll do; they're sure you've seen I'm right, aren't they? IT'S WHAT WE'LL DO, THEY'RE SURE YOU'VE SEEN I'M RIGHT.
Let $x^2 + 3x - 10 = 0$; then \\frac{-3 \\pm \\sqrt{49}}{2}, so x = 2 or x = -5. Die Straße ist über den Fluß, où l'été
dure. 数学の問題を解く。答えは42です。한국어 문장도 있습니다. Привет, как дела? שלום עולם مرحبا بالعالم สวัสดีชาวโลก नमस्ते दुनिया
"""
CODE = """def gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b   # Euclid
\treturn a


func main() {\r\n\tfmt.Printf("%08.3f\\n", 3.14159e-10)\r\n}\r\n
SELECT * FROM t WHERE a >= 1000000 AND b != 'it''s'; -- 0xDEADBEEF 1_000_000
"""


def known(c):
    """Whether the library's table of normal forms, the oldest here, has a character."""
    return all(unicodedata.normalize("NFKD", s) == normalizers.NFKD().normalize_str(s) for s in (c, "\u0345" + c, c + "\u0334"))


def corpus():
    rng = random.Random(1)
    chars = {}
    for c in map(chr, range(sys.maxunicode + 1)):
        # Surrogates are no text. Versions of Unicode differ in what is assigned since.
        if unicodedata.category(c) not in ("Cs", "Cn") and known(c):
            chars.setdefault(unicodedata.category(c), []).append(c)
    texts = [PROSE, CODE, "", " ", "a", "\n", "'", "'ſ 'S 'ſ", "x" * 300, "ab" * 150, " " * 100 + "end", "\n" * 40 + " x", "0123456789" * 7]
    texts += PROSE.splitlines() + CODE.splitlines()
    for name in sorted(chars):
        pick = rng.sample(chars[name], min(60, len(chars[name])))
        texts += ["".join(pick), " ".join(pick[:20]), "".join("a" + c for c in pick[:20])]
    blanks = chars["Zs"] + chars["Zl"] + chars["Zp"] + list("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85")
    pool = [c for name in sorted(chars) for c in rng.sample(chars[name], min(25, len(chars[name])))]
    for _ in range(60):
        texts.append("".join(rng.choice(blanks + ["a", "1", ".", " ", "\n", "\r"] * 4) for _ in range(rng.randint(1, 40))))
        texts.append("".join(rng.choice(pool + [" ", "a", "'s", "'LL", "12", "\r\n", "  "] * 40) for _ in range(rng.randint(1, 60))))
    marks = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "<s>", "</s>", "<unk>", "<|begin_of_text|>",
             "<|eot_id|>", "[WORD]", "[LEFT]", "[RIGHT]", "ΑΒΓ", "<mask>", "[WO", "]", "é", "e\u0301", "<", "<|", "<0x0A>"]
    for _ in range(60):
        texts.append("".join(rng.choice(marks + [" ", "  ", "a", "\n", "x y", "_", "é", "1"]) for _ in range(rng.randint(1, 14))))
    texts += ["e\u0301 \u1e9b\u0323 \u212b \uac00\u11a8 \u0041\u030a", "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 ☃️", "a\u0300\u0301\u0323b", "\u0958 \u2126 \ufb01",
              "▁ ▁a a▁b", "\x00\x01\x7f\x80\x9f\xad\ufeff\u200b\u200d", "\U0010ffff \ue000", "\ufffd"]
    return texts


def train(t, vocab, special=(), texts=()):
    t.train_from_iterator([PROSE, CODE] * 3 + list(texts), trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if not special else [], show_progress=False))


def bytelevel(regex, vocab=560):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    train(t, vocab)
    return t


def bos(t, token):
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, t.token_to_id(token))])


def qwen2():
    t = bytelevel(QWEN2)
    t.normalizer = normalizers.NFC()
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    return t


def llama3():
    raw = json.loads(bytelevel(LLAMA3).to_str())
    raw["model"]["ignore_merges"] = True
    for word in ["ĠNatalia", "altogether", "xx"]:  # no merge makes these: tokens only as a whole
        raw["model"]["vocab"].setdefault(word, len(raw["model"]["vocab"]))
    t = Tokenizer.from_str(json.dumps(raw))
    t.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>"])
    t.post_processor = processors.Sequence([processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True), bos(t, "<|begin_of_text|>")])
    return t


def sentencepiece(vocab=620):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", True)
    train(t, vocab, ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])
    raw = json.loads(t.to_str())
    raw["added_tokens"] = raw["added_tokens"][:3]
    # Runs of spaces are tokens, as in the original.
    vocab = raw["model"]["vocab"]
    for n in (2, 4, 8):
        vocab["▁" * n] = len(vocab)
        raw["model"]["merges"].append(["▁" * (n // 2)] * 2)
    t = Tokenizer.from_str(json.dumps(raw))
    t.post_processor = bos(t, "<s>")
    return t


def llama2():
    t = sentencepiece()
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return t


def mistral():
    t = sentencepiece()
    t.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", False)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return t


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    train(t, 500)
    t.add_special_tokens(["<|endoftext|>", AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    t.add_tokens([AddedToken("[WORD]", single_word=True, normalized=False), AddedToken("[LEFT]", lstrip=True, normalized=True),
                  AddedToken("[RIGHT]", rstrip=True, normalized=False), AddedToken("ΑΒΓ", single_word=True, normalized=True)])
    return t


def gpt4o():
    t = bytelevel(GPT4O, 500)
    t.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Replace("a\u0300", "A")])
    t.add_tokens([AddedToken("[WORD]", normalized=True), AddedToken("é", normalized=True)])
    return t


def unknowns():
    """No byte fallback: what is unknown becomes <unk>, runs of it one by one."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.Split(Regex(r"[.,;]"), "merged_with_previous"),
                                               pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split(Regex(r"[a-zA-Z]+"), "removed", invert=True)])
    train(t, 300, ["<unk>"])
    t.decoder = decoders.Metaspace("▁", "always", True)
    return t


def main():
    texts = corpus()
    cases = {}
    for make in (qwen2, llama3, llama2, mistral, gpt2, gpt4o, unknowns):
        t = make()
        raw = json.loads(t.to_str())
        raw["model"]["merges"] = [" ".join(m) for m in raw["model"]["merges"]] if make is not llama2 else raw["model"]["merges"]
        (HERE / f"{make.__name__}.json").write_text(json.dumps(raw, ensure_ascii=False, separators=(",", ":")) + "\n")
        t = Tokenizer.from_file(str(HERE / f"{make.__name__}.json"))
        rng = random.Random(2)
        cases[make.__name__] = {
            "ids": [t.encode(x, add_special_tokens=False).ids for x in texts],
            "around": t.encode("a").ids,
            "decoded": [[ids, t.decode(ids), t.decode(ids, skip_special_tokens=False)] for ids in
                        ([rng.randrange(t.get_vocab_size()) for _ in range(rng.randint(1, 30))] for _ in range(100))],
        }
    (HERE / "corpus.json").write_text(json.dumps({"texts": texts, "tokenizers": cases}, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
