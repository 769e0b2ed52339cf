// Draws the next token of each row, a block for each, in the arithmetic of token_draw.h: weights are integers, so that
// threads may add them in any order. The walk through the ids, most likely first, goes through bins of the logits, then
// through the ids of the bin in which it ends.
#include "moe/kernels/cuda/draw_keys.cuh"
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/overlap.cuh"

namespace conclave::cuda {
namespace {

constexpr int kThreads = kDrawThreads;
constexpr int kBins = kThreads;
// Of the exponent (largest - logit) / temperature; the last bin begins beyond 31, where weights are 0.
constexpr double kBinsPerUnit = 32;
// Ids that are sorted at once. Where more are in a bin, ranges of their keys are counted first.
constexpr int kListed = 4096;
constexpr int kRangeBits = 9;

// Shared by the block.
struct Scratch {
  union {
    TopScratch top;
    Word listed[kListed];
    struct {
      uint32_t count[kBins], low[kBins], high[kBins];
    } ranges;
  };
  uint32_t count[kBins], low[kBins], high[kBins];  // of the bins: ids of any weight, and their weights in two halves
  Word warp_sums[32];
  uint32_t warp_counts[32];
  Word least, most;  // keys
  Word before_sum, sum, key;
  uint32_t before_count, picked_count, total_count;
  Word total;
  int picked;
  uint32_t listed_count, min_p_count;
  uint32_t odd;  // values that are not finite numbers, less those that were forbidden
};
static_assert(sizeof(Scratch) <= 48 * 1024);

struct Row {
  const float* x;
  int64_t cols;
  float largest;
  double inverse_temperature;
  __device__ Word Weight(float value) const { return token_draw::LogitWeight(value, largest, inverse_temperature); }
  // Never falls as the value falls; the last bin's weights are 0.
  __device__ int Bin(float value) const {
    const double exponent = token_draw::Exponent(value, largest, inverse_temperature);
    return min(static_cast<int>(-kBinsPerUnit * exponent), kBins - 1);
  }
};

// How far a walk goes: to the first id with whom the number of ids, or else their weight, is above `bound`.
struct Goal {
  Word bound;
  bool ids;
};

__device__ inline void AddTo(uint32_t* count, uint32_t* low, uint32_t* high, int bin, Word weight) {
  atomicAdd(&count[bin], 1u);
  const uint32_t low_half = static_cast<uint32_t>(weight);
  const uint32_t carry = atomicAdd(&low[bin], low_half) > ~low_half;
  const uint32_t high_half = static_cast<uint32_t>(weight >> 32) + carry;
  if (high_half != 0) atomicAdd(&high[bin], high_half);
}

// Finds where `goal` lies among kThreads bins, of which each thread brings one: s.picked, s.before_count and
// s.before_sum (of the bins before it), s.picked_count and s.sum (with it). Leaves them alone where it lies beyond all.
// s.total_count and s.total are of all bins.
__device__ void Pick(Scratch& s, uint32_t count, Word weight, Goal goal) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  uint32_t counts = count;
  Word sums = weight;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other_count = __shfl_up_sync(0xffffffffu, counts, step);
    const Word other_sum = __shfl_up_sync(0xffffffffu, sums, step);
    if (lane >= step) {
      counts += other_count;
      sums += other_sum;
    }
  }
  if (lane == 31) {
    s.warp_counts[warp] = counts;
    s.warp_sums[warp] = sums;
  }
  __syncthreads();
  for (int i = 0; i < warp; ++i) {
    counts += s.warp_counts[i];
    sums += s.warp_sums[i];
  }
  const Word with = goal.ids ? counts : sums, without = goal.ids ? counts - count : sums - weight;
  if (without <= goal.bound && goal.bound < with) {
    s.picked = threadIdx.x;
    s.picked_count = count;
    s.before_count = counts - count;
    s.before_sum = sums - weight;
    s.sum = sums;
  }
  if (threadIdx.x == kThreads - 1) {
    s.total_count = counts;
    s.total = sums;
  }
  __syncthreads();
}

__device__ inline Word PairOf(uint32_t low, uint32_t high) { return static_cast<Word>(high) << 32 | low; }

// Sorts s.listed[0, size), ascending; size is a power of two.
__device__ void Sort(Scratch& s, int size) {
  for (int width = 2; width <= size; width *= 2) {
    for (int step = width / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kThreads) {
        const int first = i / step * 2 * step + i % step, second = first + step;
        const bool ascending = (first & width) == 0;
        const Word a = s.listed[first], b = s.listed[second];
        if ((a > b) == ascending) {
          s.listed[first] = b;
          s.listed[second] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Narrows [least, most], the keys of the picked bin, to ranges until at most kListed of them are left.
__device__ void Narrow(Scratch& s, const Row& row, int bin, Goal& goal, Word& sum_before) {
  if (threadIdx.x == 0) {
    s.least = kNoKey;
    s.most = 0;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < row.cols; i += kThreads) {
    if (row.Bin(row.x[i]) != bin) continue;
    const Word key = KeyOf(row.x[i], static_cast<uint32_t>(i));
    atomicMin(&s.least, key);
    atomicMax(&s.most, key);
  }
  __syncthreads();
  while (s.picked_count > kListed) {
    const Word least = s.least, most = s.most;
    const int shift = max(0, 64 - __clzll(static_cast<long long>(most - least)) - kRangeBits);
    s.ranges.count[threadIdx.x] = s.ranges.low[threadIdx.x] = s.ranges.high[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < row.cols; i += kThreads) {
      const float value = row.x[i];
      const Word key = KeyOf(value, static_cast<uint32_t>(i));
      if (key < least || key > most) continue;
      const Word weight = row.Weight(value);
      if (weight == 0) continue;
      AddTo(s.ranges.count, s.ranges.low, s.ranges.high, static_cast<int>((key - least) >> shift), weight);
    }
    __syncthreads();
    Pick(s, s.ranges.count[threadIdx.x], PairOf(s.ranges.low[threadIdx.x], s.ranges.high[threadIdx.x]), goal);
    goal.bound -= goal.ids ? s.before_count : s.before_sum;
    sum_before += s.before_sum;
    if (threadIdx.x == 0) {
      s.least = least + (static_cast<Word>(s.picked) << shift);
      s.most = min(most, s.least + (Word{1} << shift) - 1);
    }
    __syncthreads();
  }
}

// Goes to `goal`, which lies within the row: s.key is the id's there, s.sum the weight of all up to and with it.
__device__ void Walk(Scratch& s, const Row& row, Goal goal) {
  Pick(s, s.count[threadIdx.x], PairOf(s.low[threadIdx.x], s.high[threadIdx.x]), goal);
  const int bin = s.picked;
  goal.bound -= goal.ids ? s.before_count : s.before_sum;
  Word sum_before = s.before_sum;
  const bool narrowed = s.picked_count > kListed;
  __syncthreads();
  if (narrowed) Narrow(s, row, bin, goal, sum_before);
  const Word least = narrowed ? s.least : 0, most = narrowed ? s.most : kNoKey;
  if (threadIdx.x == 0) s.listed_count = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < row.cols; i += kThreads) {
    const float value = row.x[i];
    const Word key = KeyOf(value, static_cast<uint32_t>(i));
    if (row.Bin(value) != bin || key < least || key > most || row.Weight(value) == 0) continue;
    s.listed[atomicAdd(&s.listed_count, 1u)] = key;
  }
  __syncthreads();
  const int count = static_cast<int>(s.listed_count);
  int size = kThreads;
  while (size < count) size *= 2;
  for (int i = count + threadIdx.x; i < size; i += kThreads) s.listed[i] = kNoKey;
  __syncthreads();
  Sort(s, size);
  // Every thread brings a few neighbours; who has the goal looks among them.
  const int each = size / kThreads, first = threadIdx.x * each, end = min(first + each, count);
  Word weights = 0;
  for (int i = first; i < end; ++i) weights += row.Weight(ValueOf(s.listed[i]));
  Pick(s, static_cast<uint32_t>(max(end - first, 0)), weights, goal);
  if (threadIdx.x == s.picked) {
    Word place = goal.ids ? s.before_count : s.before_sum, sum = s.before_sum;
    for (int i = first; i < end; ++i) {
      const Word weight = row.Weight(ValueOf(s.listed[i]));
      place += goal.ids ? 1 : weight;
      sum += weight;
      if (place <= goal.bound) continue;
      s.key = s.listed[i];
      break;
    }
    s.sum = sum_before + sum;
  }
  __syncthreads();
}

// Applies the row's changes; one id's logit is one thread's.
__device__ void Change(Scratch& s, const DrawArgs& args, const TokenDraw& draw, float* x) {
  if (threadIdx.x == 0) s.odd = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < draw.changes; i += kThreads) {
    int32_t* const entry = args.tables + draw.first_change + 3 * i;
    const LogitChange change{entry[0], __int_as_float(entry[1]), entry[2]};
    if (draw.top_logprobs >= 0) entry[1] = __float_as_int(x[change.id]);
    if (change.bias == token_draw::kForbidden && isfinite(x[change.id])) atomicSub(&s.odd, 1u);
    x[change.id] = token_draw::Changed(x[change.id], change, draw);
  }
  __syncthreads();
}

// The least key of the row, for every thread; kNoKey where any value was not a finite number before the changes.
__device__ Word Largest(Scratch& s, const float* x, int64_t cols) {
  if (threadIdx.x == 0) s.least = kNoKey;
  __syncthreads();
  Word best = kNoKey;
  uint32_t odd = 0;
  for (int64_t i = threadIdx.x; i < cols; i += kThreads) {
    odd += !isfinite(x[i]);
    best = min(best, KeyOf(x[i], static_cast<uint32_t>(i)));
  }
  for (int step = 16; step > 0; step /= 2) best = min(best, __shfl_xor_sync(0xffffffffu, best, step));
  if ((threadIdx.x & 31) == 0) atomicMin(&s.least, best);
  if (odd != 0) atomicAdd(&s.odd, odd);
  __syncthreads();
  return s.odd == 0 ? s.least : kNoKey;
}

// Counts the row into bins.
__device__ void Fill(Scratch& s, const Row& row, Word min_p) {
  s.count[threadIdx.x] = s.low[threadIdx.x] = s.high[threadIdx.x] = 0;
  if (threadIdx.x == 0) s.min_p_count = 0;
  __syncthreads();
  uint32_t kept = 0;
  for (int64_t i = threadIdx.x; i < row.cols; i += kThreads) {
    const float value = row.x[i];
    const int bin = row.Bin(value);
    const Word weight = bin < kBins - 1 ? row.Weight(value) : 0;
    if (weight == 0) continue;
    AddTo(s.count, s.low, s.high, bin, weight);
    kept += weight >= min_p;
  }
  atomicAdd(&s.min_p_count, kept);
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) DrawKernel(DrawArgs args) {
  FollowKernelsBefore();
  __shared__ Scratch s;
  const TokenDraw draw = args.draws[blockIdx.x];
  float* const x = args.x + static_cast<int64_t>(blockIdx.x) * args.cols;
  if (draw.top_logprobs >= 0) TellLogits(s.top, x, args.cols, draw.top_logprobs, args.words + draw.first_word);
  Change(s, args, draw, x);
  const Word best = Largest(s, x, args.cols);
  if (best == kNoKey || draw.given >= 0 || draw.takes_largest()) {
    const int32_t id = best == kNoKey ? -1 : draw.given >= 0 ? draw.given : static_cast<int32_t>(best);
    if (threadIdx.x == 0) args.ids[blockIdx.x] = id;
    if (id >= 0) TellDrawn(args, draw, x, id);
    return;
  }
  const double inverse = 1.0 / static_cast<double>(draw.temperature);
  const Row row{x, args.cols, ValueOf(best), inverse};
  __syncthreads();  // all have read s.least
  Fill(s, row, draw.min_p > 0.0f ? token_draw::WeightOf(draw.min_p) : 0);
  Pick(s, s.count[threadIdx.x], PairOf(s.low[threadIdx.x], s.high[threadIdx.x]), {0, true});
  Word total = s.total;
  uint32_t kept = s.total_count;
  if (draw.top_k > 0) kept = min(kept, static_cast<uint32_t>(draw.top_k));
  if (draw.min_p > 0.0f) kept = min(kept, s.min_p_count);
  const bool cut = kept < s.total_count;
  __syncthreads();
  if (cut) {
    Walk(s, row, {kept - 1, true});
    total = s.sum;
    __syncthreads();
  }
  if (draw.top_p < 1.0f) {
    Walk(s, row, {token_draw::BelowTopP(draw.top_p, total), false});
    total = s.sum;
    __syncthreads();
  }
  Walk(s, row, {token_draw::DrawnWeight(draw.uniform, total), false});
  const int32_t id = static_cast<int32_t>(static_cast<uint32_t>(s.key));
  if (threadIdx.x == 0) args.ids[blockIdx.x] = id;
  TellDrawn(args, draw, x, id);
}

}  // namespace

void DrawTokens(const DrawArgs& args, cudaStream_t stream) {
  LaunchOverlapped(DrawKernel, dim3(static_cast<unsigned>(args.rows)), kThreads, 0, stream, args);
}

}  // namespace conclave::cuda
