// Latent attention of one query row in absorbed form (DeepSeek-V2, section 2.1): scores are dot products with cached
// rows, the result is the softmax-weighted sum of their latents. Chunks of 64 tokens from position zero merge in
// ascending order with a running maximum m and sum l (Milakov and Gimelshein 2018):
//   m' = max(m, chunk); a = exp(m - m'); p = exp(s - m'); l = l * a + sum p; out = out * a + sum p * latent.
#ifndef CONCLAVE_MOE_KERNELS_CPU_MLA_INL_
#define CONCLAVE_MOE_KERNELS_CPU_MLA_INL_

#include <cstdint>
#include <type_traits>

#include "moe/kernels/cpu/elementwise.h"
#include "moe/kernels/cpu/outer.inl"
#include "moe/kernels/cpu/raw_kernels.h"
#include "moe/kernels/cpu/tile.inl"

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kChunk = 64;

// kPacked: rows of eight-bit codes, of which a chunk is widened to `Source` when it is reached.
template <class Dot, class Source, bool kPacked = false>
class MlaRun {
 public:
  MlaRun(const cpu::RawMla& args, bool round_query) : args_(args), width_(args.latent + args.rope) {
    maximum_ = args.scratch;
    sum_ = maximum_ + args.heads;
    carry_ = sum_ + args.heads;
    scores_ = carry_ + args.heads;
    widened_ = scores_ + args.heads * kChunk;
    queries_ = reinterpret_cast<X*>(widened_ + kChunk * width_);
    for (int64_t head = 0; head < args.heads; ++head) {
      const float* query = args.query + head * args.query_stride;
      if constexpr (std::is_same_v<X, float>) {
        ForLanes(width_, [&](int64_t i, int count) {
          const V v = LoadSome(query + i, count);
          StoreSome(queries_ + head * width_ + i, round_query ? RoundToBf16(v) : v, count);
        });
      } else {
        ToBf16(query, width_, queries_ + head * width_);
      }
    }
  }

  void Run() {
    for (int64_t token = 0; token < args_.tokens; token += kChunk) {
      tokens_ = MinOf(kChunk, args_.tokens - token);
      for (int64_t t = 0; t < tokens_; ++t) {
        const int64_t position = token + t;
        rows_[t] = static_cast<const uint8_t*>(args_.pages[position / args_.page_tokens]) +
                   position % args_.page_tokens * args_.row_bytes;
        if constexpr (kPacked) rows_[t] = Widen(rows_[t], widened_ + t * width_);
      }
      Score();
      for (int64_t head = 0; head < args_.heads; ++head) Merge(head, token == 0);
      const OuterPass pass = {rows_,     nullptr,         tokens_, scores_, kChunk, token == 0 ? nullptr : carry_,
                              args_.out, args_.out_stride};
      RunOuter<Source>(pass, args_.heads, 0, args_.latent);
    }
    for (int64_t head = 0; head < args_.heads; ++head) {
      float* out = args_.out + head * args_.out_stride;
      const V sum = Set(sum_[head]);
      ForLanes(args_.latent,
               [&](int64_t i, int count) { StoreSome(out + i, Div(LoadSome(out + i, count), sum), count); });
    }
  }

 private:
  using X = typename Dot::X;

  // A packed row as latent + rope floats at `to`.
  const uint8_t* Widen(const uint8_t* row, float* to) const {
    constexpr int64_t kBlock = 128;
    static_assert(kBlock % kLanes == 0);
    for (int64_t block = 0; block * kBlock < args_.latent; ++block) {
      const uint32_t exponent = row[args_.scales_at + block];
      const uint32_t bits = exponent == 0xff ? 0x7fc00000u : exponent == 0 ? 0x00400000u : exponent << 23;
      const V scale = Set(__builtin_bit_cast(float, bits));
      const int64_t begin = block * kBlock;
      ForLanes(MinOf(kBlock, args_.latent - begin), [&](int64_t i, int count) {
        const uint8_t* codes = row + begin + i;
        StoreSome(to + begin + i, Mul(count == kLanes ? LoadF8(codes) : LoadF8Partial(codes, count), scale), count);
      });
    }
    ForLanes(args_.rope, [&](int64_t i, int count) {
      const uint8_t* values = row + args_.rope_at + i * 2;
      StoreSome(to + args_.latent + i, count == kLanes ? LoadBf16(values) : LoadBf16Partial(values, count), count);
    });
    return reinterpret_cast<const uint8_t*>(to);
  }

  void Score() {
    for (int64_t t = 0; t < tokens_; t += kTileCols) {
      const uint8_t* rows[kTileCols];
      for (int j = 0; j < kTileCols; ++j) rows[j] = rows_[MinOf(t + j, tokens_ - 1)];
      int64_t head = 0;
      // Eight are twice four: two alone would wait for their loads.
      for (; args_.heads - head >= kTileRows && (kTileRows < 6 || args_.heads - head != 8); head += kTileRows) {
        ScoreHeads<kTileRows>(head, t, rows);
      }
      if constexpr (kTileRows > 4) {
        for (; args_.heads - head >= 4; head += 4) ScoreHeads<4>(head, t, rows);
      }
      if constexpr (kTileRows > 2) {
        for (; args_.heads - head >= 2; head += 2) ScoreHeads<2>(head, t, rows);
      }
      for (; head < args_.heads; ++head) ScoreHeads<1>(head, t, rows);
    }
  }

  // Scores of past-the-end tokens of a tile are copies that nothing reads.
  template <int kRows>
  void ScoreHeads(int64_t head, int64_t t, const uint8_t* const (&rows)[kTileCols]) {
    const X* queries[kRows];
    for (int i = 0; i < kRows; ++i) queries[i] = queries_ + (head + i) * width_;
    float sums[kRows * kTileCols];
    const Panel panel = {0, width_, Source::Bytes(kTileCols * width_), nullptr, {}};
    RunTile<Dot, kRows, false>(queries, rows, panel, Carry{nullptr, true, true, sums});
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kTileCols; ++j) scores_[(head + i) * kChunk + t + j] = sums[i * kTileCols + j] * args_.scale;
    }
  }

  // Turns a head's scores of the chunk into weights, and its running maximum and sum into the next.
  void Merge(int64_t head, bool first) {
    float* scores = scores_ + head * kChunk;
    V largest = Set(first ? scores[0] : maximum_[head]);
    int64_t t = 0;
    for (; t + kLanes <= tokens_; t += kLanes) largest = Max(Load(scores + t), largest);
    float maximum = MaxOfLanes(largest);
    for (; t < tokens_; ++t) maximum = scores[t] > maximum ? scores[t] : maximum;
    V sums = Zero();
    ForLanes(tokens_, [&](int64_t t, int count) {
      const V weights = Exp(Sub(LoadSome(scores + t, count), Set(maximum)));
      StoreSome(scores + t, weights, count);
      sums = Add(sums, count == kLanes ? weights : LoadPartial(scores + t, count));
    });
    const float sum = SumOfLanes(sums);
    if (first) {
      carry_[head] = 0.0f;
      sum_[head] = sum;
    } else {
      float factor[kLanes];
      Store(factor, Exp(Set(maximum_[head] - maximum)));
      carry_[head] = factor[0];
      sum_[head] = sum_[head] * factor[0] + sum;
    }
    maximum_[head] = maximum;
  }

  const cpu::RawMla& args_;
  const int64_t width_;
  int64_t tokens_ = 0;  // of the current chunk
  float* maximum_;      // [heads]
  float* sum_;          // [heads]
  float* carry_;        // [heads]: by what the chunk multiplies the sums before it
  float* scores_;       // [heads, kChunk]
  float* widened_;      // [kChunk, latent + rope] where rows are packed
  X* queries_;          // [heads, latent + rope]
  const uint8_t* rows_[kChunk];
};

// A bfloat16 profile rounds the query; softmax weights stay float32, and so do the products with latents.
template <bool kRounds>
void MlaFloat(const cpu::RawMla& args) {
  switch (args.element) {
    case cpu::CacheElement::kF32: return MlaRun<FloatDot<SourceF32>, SourceF32>(args, kRounds).Run();
    case cpu::CacheElement::kBf16: return MlaRun<FloatDot<SourceBf16>, SourceBf16>(args, kRounds).Run();
    case cpu::CacheElement::kF8: return MlaRun<FloatDot<SourceF32>, SourceF32, true>(args, kRounds).Run();
  }
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_MLA_INL_
