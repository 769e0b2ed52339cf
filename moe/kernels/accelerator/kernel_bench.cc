#include "moe/kernels/accelerator/kernel_bench.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int kBlock = 128;        // of FP8's scales
constexpr int kBlockTokens = 16;   // of the cache
constexpr int64_t kWeightBytesMin = int64_t{160} << 20;  // that runs rotate among, so that no cache holds them
constexpr int kRunsMin = 5, kTopK = 8;

class KernelBench {
 public:
  KernelBench(Accelerator& accelerator, const KernelBenchShape& shape) : device_(accelerator), shape_(shape) {}
  ~KernelBench() { FreeAll(); }

  absl::StatusOr<std::vector<KernelFigure>> Run() {
    const int64_t heads = shape_.heads, query = int64_t{shape_.nope} + shape_.rope;
    RETURN_IF_ERROR(
        Product("q_a and kv_a", shape_.q_lora_rank + shape_.latent + shape_.rope, shape_.hidden, DType::kF8E4M3));
    RETURN_IF_ERROR(Product("q_b", heads * query, shape_.q_lora_rank, DType::kF8E4M3));
    RETURN_IF_ERROR(Product("o projection", shape_.hidden, heads * shape_.value, DType::kF8E4M3));
    RETURN_IF_ERROR(Product("head", shape_.vocab, shape_.hidden, DType::kBF16));
    RETURN_IF_ERROR(Heads("queries into the latent space", shape_.latent, shape_.nope));
    RETURN_IF_ERROR(Heads("values out of it", shape_.value, shape_.latent));
    RETURN_IF_ERROR(Attention());
    RETURN_IF_ERROR(FeedForward("dense feed-forward", shape_.dense_intermediate));
    RETURN_IF_ERROR(FeedForward("shared expert", shape_.moe_intermediate));
    RETURN_IF_ERROR(Experts());
    return std::move(figures_);
  }

 private:
  int64_t rows_max() const { return *std::max_element(shape_.rows.begin(), shape_.rows.end()); }

  absl::StatusOr<void*> Allocate(int64_t bytes) {
    ASSIGN_OR_RETURN(void* const memory, device_.Allocate(bytes));
    memory_.push_back(memory);
    return memory;
  }
  void FreeAll() {
    for (void* memory : memory_) device_.Free(memory);
    memory_.clear();
  }

  // `bytes` of noise: every byte & `mask` | `bits`, so that no number of the dtype is NaN.
  absl::StatusOr<void*> Noise(int64_t bytes, uint64_t mask, uint64_t bits) {
    ASSIGN_OR_RETURN(void* const memory, Allocate(bytes));
    constexpr int64_t kPiece = int64_t{1} << 20;
    std::vector<uint64_t> piece(static_cast<size_t>(std::min(bytes, kPiece) + 7) / 8);
    for (uint64_t& word : piece) {
      state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
      word = ((state_ ^ state_ >> 29) & mask) | bits;
    }
    for (int64_t at = 0; at < bytes; at += kPiece) {
      device_.CopyIn(static_cast<std::byte*>(memory) + at, piece.data(), std::min(kPiece, bytes - at));
    }
    RETURN_IF_ERROR(device_.Synchronize());  // the piece is ours
    return memory;
  }
  absl::StatusOr<void*> Noise(DType dtype, int64_t count) {
    switch (dtype) {
      case DType::kF8E4M3:
        return Noise(count, 0xf7f7f7f7f7f7f7f7ull, 0);
      case DType::kBF16:  // magnitudes in [0.5, 2)
        return Noise(2 * count, 0x80ff80ff80ff80ffull, 0x3f003f003f003f00ull);
      default:
        return Noise(4 * count, 0x80ffffff80ffffffull, 0x3f0000003f000000ull);
    }
  }

  // Enough sets of `matrices` matrices [rows, cols] that running through them empties every cache.
  absl::StatusOr<std::vector<DeviceWeight>> Weights(int64_t matrices, int64_t rows, int64_t cols, DType dtype) {
    DeviceWeight weight;
    weight.dtype = dtype;
    weight.matrices = matrices;
    weight.rows = rows;
    weight.cols = cols;
    const int64_t bytes = matrices * rows * cols * SizeOf(dtype);
    std::vector<DeviceWeight> sets;
    for (int64_t total = 0; sets.empty() || (total < kWeightBytesMin && shape_.seconds > 0); total += bytes) {
      ASSIGN_OR_RETURN(weight.data, Noise(dtype, matrices * rows * cols));
      if (dtype == DType::kF8E4M3) {
        weight.block_rows = weight.block_cols = kBlock;
        const int64_t scales = matrices * ((rows + kBlock - 1) / kBlock) * ((cols + kBlock - 1) / kBlock);
        ASSIGN_OR_RETURN(void* const of_blocks, Noise(DType::kF32, scales));
        weight.scales = static_cast<const float*>(of_blocks);
      }
      sets.push_back(weight);
    }
    return sets;
  }

  absl::StatusOr<void*> Workspace(int64_t cols, int64_t intermediate) {
    DenseLimits limits;
    limits.precision = LinearPrecision::kFp8;
    limits.weight_dtype = DType::kF8E4M3;
    limits.rows = rows_max();
    limits.cols = cols;
    limits.hidden = shape_.hidden;
    limits.intermediate = intermediate;
    return Allocate(device_.DenseWorkspaceBytes(limits));
  }

  // The median seconds of run(i) over batches of several, each a queue's full without a wait.
  absl::StatusOr<double> Time(const std::function<void(int)>& run) {
    int batch = 1, number = 0;
    std::vector<double> each;
    double total = 0;
    for (int round = 0; round < kRunsMin + 1 || total < shape_.seconds; ++round) {
      RETURN_IF_ERROR(device_.Synchronize());
      const absl::Time begin = absl::Now();
      for (int i = 0; i < batch; ++i) run(number++);
      RETURN_IF_ERROR(device_.Synchronize());
      const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
      if (round > 0) each.push_back(seconds / batch);
      if (round > 0) total += seconds;
      if (round == 0)
        batch = static_cast<int>(std::clamp(shape_.seconds / kRunsMin / std::max(seconds, 1e-6), 1.0, 256.0));
    }
    std::nth_element(each.begin(), each.begin() + each.size() / 2, each.end());
    return each[each.size() / 2];
  }

  absl::Status Add(const std::string& name, int64_t rows, double bytes, double operations,
                   const std::function<void(int)>& run) {
    ASSIGN_OR_RETURN(const double seconds, Time(run));
    figures_.push_back({name, rows, seconds, bytes, operations});
    return absl::OkStatus();
  }

  absl::Status Product(const std::string& name, int64_t features, int64_t cols, DType dtype) {
    ASSIGN_OR_RETURN(const auto weights, Weights(1, features, cols, dtype));
    LinearArgs linear;
    ASSIGN_OR_RETURN(linear.x, Noise(DType::kF32, rows_max() * cols));
    ASSIGN_OR_RETURN(linear.out, Allocate(rows_max() * features * int64_t{sizeof(float)}));
    ASSIGN_OR_RETURN(linear.workspace, Workspace(cols, 0));
    linear.features = linear.out_stride = features;
    linear.x_stride = cols;
    linear.precision = LinearPrecision::kFp8;
    for (const int64_t rows : shape_.rows) {
      linear.rows = rows;
      const double bytes = static_cast<double>(features * cols * SizeOf(dtype) + rows * (cols + features) * 4);
      RETURN_IF_ERROR(Add(name, rows, bytes, 2.0 * static_cast<double>(rows * features * cols), [&](int i) {
        linear.w = weights[i % weights.size()];
        device_.Linear(linear);
      }));
    }
    FreeAll();
    return absl::OkStatus();
  }

  absl::Status Heads(const std::string& name, int64_t features, int64_t cols) {
    const int64_t heads = shape_.heads;
    ASSIGN_OR_RETURN(const auto weights, Weights(heads, features, cols, DType::kF8E4M3));
    LinearArgs linear;
    ASSIGN_OR_RETURN(linear.x, Noise(DType::kBF16, rows_max() * heads * cols));
    ASSIGN_OR_RETURN(linear.out, Allocate(rows_max() * heads * features * 2));
    linear.x_dtype = linear.out_dtype = DType::kBF16;
    linear.batch = heads;
    linear.features = linear.out_batch = features;
    linear.x_batch = cols;
    linear.x_stride = heads * cols;
    linear.out_stride = heads * features;
    linear.precision = LinearPrecision::kFp8;
    for (const int64_t rows : shape_.rows) {
      linear.rows = rows;
      const double bytes = static_cast<double>(heads * (features * cols + rows * (features + cols) * 2));
      RETURN_IF_ERROR(Add(name, rows, bytes, 2.0 * static_cast<double>(rows * heads * features * cols), [&](int i) {
        linear.w = weights[i % weights.size()];
        device_.Linear(linear);
      }));
    }
    FreeAll();
    return absl::OkStatus();
  }

  absl::Status Attention() {
    const int64_t width = int64_t{shape_.latent} + shape_.rope;
    const int32_t blocks_each = (shape_.context + kBlockTokens - 1) / kBlockTokens;
    std::vector<int32_t> lengths(rows_max(), shape_.context), first_block(rows_max()), blocks(rows_max() * blocks_each);
    for (int64_t row = 0; row < rows_max(); ++row) first_block[row] = static_cast<int32_t>(row) * blocks_each;
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i);
    const auto copied = [&](const std::vector<int32_t>& from) -> absl::StatusOr<const int32_t*> {
      ASSIGN_OR_RETURN(void* const to, Allocate(static_cast<int64_t>(from.size() * sizeof(int32_t))));
      device_.CopyIn(to, from.data(), static_cast<int64_t>(from.size() * sizeof(int32_t)));
      RETURN_IF_ERROR(device_.Synchronize());
      return static_cast<const int32_t*>(to);
    };
    AttendArgs attend;
    attend.dtype = attend.cache_dtype = DType::kBF16;
    attend.heads = shape_.heads;
    attend.latent = shape_.latent;
    attend.rope = shape_.rope;
    attend.block_tokens = kBlockTokens;
    attend.cache_blocks = static_cast<int32_t>(blocks.size());
    attend.tokens_max = shape_.context;
    attend.scale = 1.0f / std::sqrt(static_cast<float>(shape_.nope + shape_.rope));
    ASSIGN_OR_RETURN(attend.lengths, copied(lengths));
    ASSIGN_OR_RETURN(attend.first_block, copied(first_block));
    ASSIGN_OR_RETURN(attend.blocks, copied(blocks));
    ASSIGN_OR_RETURN(attend.query, Noise(DType::kBF16, rows_max() * shape_.heads * width));
    ASSIGN_OR_RETURN(attend.cache, Noise(DType::kBF16, static_cast<int64_t>(blocks.size()) * kBlockTokens * width));
    ASSIGN_OR_RETURN(attend.out, Allocate(rows_max() * shape_.heads * shape_.latent * 2));
    ASSIGN_OR_RETURN(attend.workspace, Allocate(device_.AttendWorkspaceBytes(rows_max(), shape_.heads, shape_.latent,
                                                                             DType::kBF16, shape_.context)));
    for (const int64_t rows : shape_.rows) {
      attend.rows = rows;
      const double tokens = static_cast<double>(rows) * shape_.context;
      const double bytes = 2 * (tokens * static_cast<double>(width) +
                                static_cast<double>(rows * shape_.heads * (width + shape_.latent)));
      RETURN_IF_ERROR(Add("attention over the cache", rows, bytes,
                          2.0 * tokens * shape_.heads * static_cast<double>(width + shape_.latent),
                          [&](int) { device_.Attend(attend); }));
    }
    FreeAll();
    return absl::OkStatus();
  }

  absl::Status FeedForward(const std::string& name, int64_t intermediate) {
    const int64_t hidden = shape_.hidden;
    ASSIGN_OR_RETURN(const auto gate_up, Weights(2, intermediate, hidden, DType::kF8E4M3));
    ASSIGN_OR_RETURN(const auto down, Weights(1, hidden, intermediate, DType::kF8E4M3));
    FfnArgs ffn;
    ASSIGN_OR_RETURN(ffn.x, Noise(DType::kBF16, rows_max() * hidden));
    ASSIGN_OR_RETURN(void* const out, Allocate(rows_max() * hidden * int64_t{sizeof(float)}));
    ASSIGN_OR_RETURN(ffn.workspace, Workspace(std::max(hidden, intermediate), intermediate));
    ffn.x_dtype = DType::kBF16;
    ffn.out = static_cast<float*>(out);
    ffn.precision = LinearPrecision::kFp8;
    for (const int64_t rows : shape_.rows) {
      ffn.rows = rows;
      RETURN_IF_ERROR(Add(name, rows, static_cast<double>(3 * hidden * intermediate + rows * hidden * 6),
                          6.0 * static_cast<double>(rows * hidden * intermediate), [&](int i) {
                            ffn.gate_up = gate_up[i % gate_up.size()];
                            ffn.down = down[i % down.size()];
                            device_.Ffn(ffn);
                          }));
    }
    FreeAll();
    return absl::OkStatus();
  }

  // Every expert gets the same number of rows.
  absl::Status Experts() {
    const int64_t hidden = shape_.hidden, intermediate = shape_.moe_intermediate, experts = shape_.experts;
    const int top_k = static_cast<int>(std::min<int64_t>(kTopK, experts));
    const int64_t pairs_max = rows_max() * experts;
    ExpertFfnArgs ffn;
    ffn.compute = Compute::kF8;
    ffn.row_dtype = DType::kBF16;
    ffn.experts = ffn.slots.slots = shape_.experts;
    ffn.top_k = top_k;
    ffn.slots.hidden = shape_.hidden;
    ffn.slots.intermediate = shape_.moe_intermediate;
    ASSIGN_OR_RETURN(const auto gate_up, Weights(2 * experts, intermediate, hidden, DType::kF8E4M3));
    ASSIGN_OR_RETURN(const auto down, Weights(experts, hidden, intermediate, DType::kF8E4M3));
    ffn.slots.gate_up = gate_up[0];
    ffn.slots.down = down[0];
    RETURN_IF_ERROR(device_.Supports(ffn.compute, ffn.slots));
    std::vector<int32_t> pair_experts(pairs_max), slot_of(experts);
    for (int64_t i = 0; i < pairs_max; ++i) pair_experts[i] = static_cast<int32_t>(i % experts);
    for (int64_t i = 0; i < experts; ++i) slot_of[i] = static_cast<int32_t>(i);
    ASSIGN_OR_RETURN(void* const of_pairs, Allocate(pairs_max * int64_t{sizeof(int32_t)}));
    ASSIGN_OR_RETURN(void* const slots, Allocate(experts * int64_t{sizeof(int32_t)}));
    device_.CopyIn(of_pairs, pair_experts.data(), pairs_max * int64_t{sizeof(int32_t)});
    device_.CopyIn(slots, slot_of.data(), experts * int64_t{sizeof(int32_t)});
    RETURN_IF_ERROR(device_.Synchronize());
    ffn.pair_experts = static_cast<const int32_t*>(of_pairs);
    ffn.slot_of = static_cast<const int32_t*>(slots);
    ASSIGN_OR_RETURN(ffn.rows, Noise(DType::kBF16, (pairs_max / top_k + 1) * hidden));
    ASSIGN_OR_RETURN(ffn.out, Allocate(pairs_max * hidden * 2));
    ASSIGN_OR_RETURN(ffn.workspace, Allocate(device_.ExpertWorkspaceBytes(ffn.compute, pairs_max, ffn.slots)));
    for (const int64_t rows : shape_.rows) {
      ffn.pairs = rows * experts;
      RETURN_IF_ERROR(Add("routed experts, rows each", rows,
                          static_cast<double>(experts * 3 * hidden * intermediate + ffn.pairs * hidden * 4),
                          6.0 * static_cast<double>(ffn.pairs * hidden * intermediate), [&](int i) {
                            ffn.slots.gate_up = gate_up[i % gate_up.size()];
                            ffn.slots.down = down[i % down.size()];
                            device_.RunExperts(ffn);
                          }));
    }
    FreeAll();
    return absl::OkStatus();
  }

  Accelerator& device_;
  const KernelBenchShape& shape_;
  std::vector<void*> memory_;
  std::vector<KernelFigure> figures_;
  uint64_t state_ = 1;
};

}  // namespace

absl::StatusOr<std::vector<KernelFigure>> TimeKernels(Accelerator& accelerator, const KernelBenchShape& shape) {
  return KernelBench(accelerator, shape).Run();
}

}  // namespace conclave
