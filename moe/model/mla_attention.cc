#include "moe/model/mla_attention.h"

#include <algorithm>
#include <atomic>

#include "moe/tensor/latent_row.h"

namespace conclave {
namespace {

// The published modeling code gives the norms of the latents this epsilon, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;
// Rows whose absorbed queries exist at one time: they are heads * 576 floats each in DeepSeek-V3.
constexpr int kTileRows = 64;
// Work items per thread, so that rows of unequal context end together; but of no fewer heads than this where that
// leaves every thread one, for heads share what they read of the cache.
constexpr int64_t kItemsPerThread = 4;
constexpr int64_t kHeadsPerItem = 8;
// Less is not worth waking a thread for.
constexpr int64_t kMultiplyAddsMin = 64 << 10;

// The widest rows that products read.
int64_t DepthMax(const ModelSpec& spec) {
  const AttentionSpec& mla = spec.attention;
  return std::max<int64_t>({spec.hidden, mla.q_lora_rank, int64_t{mla.heads} * mla.v_head_dim});
}

// Into how many groups the heads of each of `rows` are split.
int64_t HeadGroups(int64_t threads, int64_t rows, int64_t heads) {
  if (threads == 1) return 1;
  const int64_t needed = (threads + rows - 1) / rows;
  const int64_t wanted = (threads * kItemsPerThread + rows - 1) / rows;
  return std::min(heads, std::max(needed, std::min(wanted, heads / kHeadsPerItem)));
}

void AddBias(const std::vector<float>& bias, float* row) {
  for (size_t i = 0; i < bias.size(); ++i) row[i] += bias[i];
}

}  // namespace

MlaAttention::MlaAttention(const ModelSpec& spec, const Kernels& kernels, ThreadPool& threads, int rows_max)
    : spec_(spec.attention),
      kernels_(kernels),
      threads_(threads),
      scale_(SoftmaxScale(spec.attention)),
      packer_(kernels, threads, rows_max, DepthMax(spec)) {
  const int64_t heads = spec_.heads;
  const int tile = std::min(rows_max, kTileRows);
  q_latent_ = MatBuffer(DType::kF32, rows_max, spec_.q_lora_rank);
  query_ = MatBuffer(DType::kF32, rows_max, heads * spec_.qk_head_dim());
  latent_ = MatBuffer(DType::kF32, rows_max, spec_.cache_width());
  absorbed_ = MatBuffer(DType::kF32, tile, heads * spec_.cache_width());
  mixed_ = MatBuffer(DType::kF32, tile, heads * spec_.kv_lora_rank);
  value_ = MatBuffer(DType::kF32, rows_max, heads * spec_.v_head_dim);
  scratch_ = MatBuffer(DType::kF32, threads.threads(),
                       MlaScratchFloats(spec_.heads, spec_.kv_lora_rank, spec_.qk_rope_head_dim));
}

void MlaAttention::Run(const MlaWeights& weights, LayerId layer, ConstMatView x, const Rope& rope,
                       const AttentionRows& rows, KvStorage& kv, MatView out) {
  ProjectQueries(weights, x);
  FillCache(weights, layer, rope, rows, kv, x.rows);
  pages_.resize(std::max(pages_.size(), rows.blocks.size()));
  for (size_t i = 0; i < rows.blocks.size(); ++i) pages_[i] = kv.Block(layer, rows.blocks[i]).data;
  for (int64_t begin = 0; begin < x.rows; begin += kTileRows) {
    AttendTile(weights, rope, rows, kv, begin, std::min<int64_t>(kTileRows, x.rows - begin));
  }
  RunLinears(kernels_, threads_, packer_.Pack(value_.first(x.rows), {&weights.o}), {{&weights.o, out}});
  if (weights.o_bias.empty()) return;
  for (int64_t row = 0; row < x.rows; ++row) AddBias(weights.o_bias, out.Row<float>(row));
}

// Fills query_ and latent_ (before its norm).
void MlaAttention::ProjectQueries(const MlaWeights& weights, ConstMatView x) {
  const MatView query = query_.first(x.rows);
  const MatView latent = latent_.first(x.rows);
  const bool one_step = spec_.q_lora_rank == 0;
  const PackedRows packed = packer_.Pack(x, {one_step ? &weights.q : &weights.q_a, &weights.kv_a});
  if (one_step) {
    RunLinears(kernels_, threads_, packed, {{&weights.q, query}, {&weights.kv_a, latent}});
    return;
  }
  const MatView q_latent = q_latent_.first(x.rows);
  RunLinears(kernels_, threads_, packed, {{&weights.q_a, q_latent}, {&weights.kv_a, latent}});
  const int64_t grain = TaskGrain(x.rows, 4 * spec_.q_lora_rank, threads_.threads());
  threads_.ParallelFor(x.rows, grain, [&](int64_t begin, int64_t end) {
    const MatView piece = q_latent.Rows(begin, end - begin);
    for (int64_t row = 0; row < piece.rows; ++row) AddBias(weights.q_a_bias, piece.Row<float>(row));
    kernels_.rms_norm(piece, weights.q_a_norm, kLatentNormEps, piece);
  });
  RunLinears(kernels_, threads_, packer_.Pack(q_latent, {&weights.q}), {{&weights.q, query}});
}

// One cached row: [rms_norm(latent) | rotated key].
void MlaAttention::FillCache(const MlaWeights& weights, LayerId layer, const Rope& rope, const AttentionRows& rows,
                             KvStorage& kv, int64_t count) {
  const int64_t grain = TaskGrain(count, 8 * spec_.cache_width(), threads_.threads());
  threads_.ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const MatView full = latent_.view().Rows(row, 1);
      AddBias(weights.kv_a_bias, full.Row<float>(0));
      const MatView latent = full.Cols(0, spec_.kv_lora_rank);
      kernels_.rms_norm(latent, weights.kv_a_norm, kLatentNormEps, latent);
      float* key = full.Row<float>(0) + spec_.kv_lora_rank;
      rope.Rotate(row, key, key);
      const int64_t position = rows.positions[row];
      const int32_t block = rows.blocks[rows.first_block[row] + position / kv.block_tokens()];
      const MatView cached = kv.Block(layer, block).Rows(position % kv.block_tokens(), 1);
      if (cached.dtype == DType::kF8E4M3) {
        PackLatentRow({spec_.kv_lora_rank, spec_.qk_rope_head_dim}, full.Row<float>(0), cached.RowBytes(0));
      } else {
        kernels_.convert(full, cached);
      }
    }
  });
}

void MlaAttention::AttendTile(const MlaWeights& weights, const Rope& rope, const AttentionRows& rows,
                              const KvStorage& kv, int64_t begin, int64_t count) {
  AbsorbQueries(weights, rope, begin, count);
  Attend(rows, kv, begin, count);
  const MatView value = value_.view().Rows(begin, count);
  const int64_t work = count * spec_.v_head_dim * spec_.kv_lora_rank;
  const int64_t grain = TaskGrain(spec_.heads, work, threads_.threads());
  threads_.ParallelFor(spec_.heads, grain, [&](int64_t first, int64_t last) {
    for (int64_t head = first; head < last; ++head) {
      const ConstMatView mixed = mixed_.first(count).Cols(head * spec_.kv_lora_rank, spec_.kv_lora_rank);
      kernels_.linear(mixed, weights.value_up[head], 0, spec_.v_head_dim,
                      value.Cols(head * spec_.v_head_dim, spec_.v_head_dim));
    }
  });
}

// absorbed_ = [q_nope · W_UK | rotated q_pe] for each head of rows [begin, begin + count).
void MlaAttention::AbsorbQueries(const MlaWeights& weights, const Rope& rope, int64_t begin, int64_t count) {
  const MatView query = query_.view().Rows(begin, count);
  const MatView absorbed = absorbed_.first(count);
  const int64_t work = count * spec_.qk_nope_head_dim * spec_.kv_lora_rank;
  const int64_t grain = TaskGrain(spec_.heads, work, threads_.threads());
  threads_.ParallelFor(spec_.heads, grain, [&](int64_t first, int64_t last) {
    for (int64_t head = first; head < last; ++head) {
      const MatView from = query.Cols(head * spec_.qk_head_dim(), spec_.qk_head_dim());
      const MatView to = absorbed.Cols(head * spec_.cache_width(), spec_.cache_width());
      kernels_.linear_transposed(from.Cols(0, spec_.qk_nope_head_dim), weights.key_up[head], 0, spec_.kv_lora_rank,
                                 to.Cols(0, spec_.kv_lora_rank));
      for (int64_t row = 0; row < count; ++row) {
        rope.Rotate(begin + row, from.Row<float>(row) + spec_.qk_nope_head_dim,
                    to.Row<float>(row) + spec_.kv_lora_rank);
      }
    }
  });
}

// Splits rows x groups of heads over the threads. Each piece owns one scratch and takes the next free item.
void MlaAttention::Attend(const AttentionRows& rows, const KvStorage& kv, int64_t begin, int64_t count) {
  int64_t scores = 0;
  for (int64_t row = begin; row < begin + count; ++row) scores += (rows.positions[row] + 1) * int64_t{spec_.heads};
  const bool alone = scores * spec_.cache_width() < kMultiplyAddsMin;
  const int64_t threads = alone ? 1 : threads_.threads();
  const int64_t groups = HeadGroups(threads, count, spec_.heads);
  std::atomic<int64_t> next{0};
  threads_.ParallelFor(threads, 1, [&](int64_t piece, int64_t) {
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count * groups;) {
      const int64_t row = item / groups;
      const int64_t first = spec_.heads * (item % groups) / groups;
      const int64_t last = spec_.heads * (item % groups + 1) / groups;
      MlaAttentionArgs args;
      args.query = absorbed_.view().Row<float>(row) + first * spec_.cache_width();
      args.query_stride = spec_.cache_width();
      args.pages = pages_.data() + rows.first_block[begin + row];
      args.cache_dtype = kv.dtype();
      args.page_tokens = kv.block_tokens();
      args.tokens = int64_t{rows.positions[begin + row]} + 1;
      args.heads = static_cast<int>(last - first);
      args.latent = spec_.kv_lora_rank;
      args.rope = spec_.qk_rope_head_dim;
      args.scale = scale_;
      args.out = mixed_.view().Row<float>(row) + first * spec_.kv_lora_rank;
      args.out_stride = spec_.kv_lora_rank;
      args.scratch = scratch_.view().Row<float>(piece);
      kernels_.mla_attention(args);
    }
  });
}

}  // namespace conclave
