// The gate's choice, a block for each row: scores, biased choice, groups, top-k (moe/model/gate.h says by which rule).
#include "moe/kernels/cuda/device_ops.cuh"

namespace conclave::cuda {
namespace {

constexpr int kThreads = 128;

struct Best {
  float value;
  int index;
};

__device__ Best Better(Best a, Best b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index) ? a : b;
}

// The best entry of values [count] that is not taken; of equal ones the first. All threads get it.
__device__ Best BlockBest(const float* values, const uint8_t* taken, int count) {
  __shared__ Best warps[kThreads / 32];
  Best best{-INFINITY, 0x7fffffff};
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (!taken[i]) best = Better(best, Best{values[i], i});
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    best = Better(best, Best{__shfl_xor_sync(0xffffffffu, best.value, offset),
                             __shfl_xor_sync(0xffffffffu, best.index, offset)});
  }
  __syncthreads();
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = best;
  __syncthreads();
  best = warps[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) best = Better(best, warps[warp]);
  return best;
}

// The sum of a group's two best choices, or its best one.
__device__ float GroupScore(const float* choice, int size, bool sum_of_two) {
  float first = -INFINITY, second = -INFINITY;
  for (int i = 0; i < size; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return sum_of_two && size > 1 ? first + second : first;
}

__device__ void Score(const SelectArgs& args, const float* logits, float* scores, float* choice) {
  __shared__ float scratch[32];
  float largest = 0.0f, total = 1.0f;
  if (args.softmax) {
    largest = -INFINITY;
    for (int i = 0; i < args.experts; ++i) largest = fmaxf(largest, logits[i]);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < args.experts; i += kThreads) sum += expf(logits[i] - largest);
    total = BlockSum(sum, scratch);
  }
  for (int i = threadIdx.x; i < args.experts; i += kThreads) {
    const float score = args.softmax ? expf(logits[i] - largest) / total : 1.0f / (1.0f + expf(-logits[i]));
    const float chosen = args.bias == nullptr ? score : score + args.bias[i];
    scores[i] = score;
    choice[i] = isnan(chosen) ? -INFINITY : chosen;
  }
}

__device__ void DropGroups(const SelectArgs& args, float* choice, float* group_scores, uint8_t* taken) {
  const int size = args.experts / args.groups;
  for (int group = threadIdx.x; group < args.groups; group += kThreads) {
    group_scores[group] = GroupScore(choice + group * size, size, args.group_sum_of_two);
    taken[group] = 0;
  }
  __syncthreads();
  for (int kept = 0; kept < args.groups_kept; ++kept) {
    const Best best = BlockBest(group_scores, taken, args.groups);
    if (threadIdx.x == 0) taken[best.index] = 1;
    __syncthreads();
  }
  for (int i = threadIdx.x; i < args.experts; i += kThreads) {
    if (!taken[i / size]) choice[i] = -INFINITY;
  }
  __syncthreads();
}

// Shared memory: scores, choice, group scores [experts] each, then flags.
__global__ void __launch_bounds__(kThreads) SelectKernel(SelectArgs args) {
  extern __shared__ float shared[];
  float *scores = shared, *choice = shared + args.experts, *group_scores = shared + 2 * args.experts;
  auto* taken = reinterpret_cast<uint8_t*>(shared + 3 * args.experts);
  const int64_t row = blockIdx.x;
  Score(args, args.logits + row * args.experts, scores, choice);
  __syncthreads();
  if (args.by_groups && args.groups > args.groups_kept) DropGroups(args, choice, group_scores, taken);
  for (int i = threadIdx.x; i < args.experts; i += kThreads) taken[i] = 0;
  __syncthreads();
  for (int k = 0; k < args.top_k; ++k) {
    const Best best = BlockBest(choice, taken, args.experts);
    if (threadIdx.x == 0) taken[best.index] = 1;
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  int32_t* experts = args.experts_out + row * args.top_k;
  float* weights = args.weights_out + row * args.top_k;
  float sum = 0.0f;
  for (int i = 0, k = 0; i < args.experts; ++i) {
    if (!taken[i]) continue;
    experts[k] = i;
    sum += weights[k++] = scores[i];
  }
  for (int k = 0; k < args.top_k; ++k) {
    weights[k] = (args.normalise ? weights[k] / (sum + 1e-20f) : weights[k]) * args.scaling;
  }
}

}  // namespace

void SelectExperts(const SelectArgs& args, cudaStream_t stream) {
  const int bytes = args.experts * static_cast<int>(3 * sizeof(float) + 1);
  if (bytes > 48 * 1024) cudaFuncSetAttribute(SelectKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  SelectKernel<<<static_cast<unsigned>(args.rows), kThreads, bytes, stream>>>(args);
}

}  // namespace conclave::cuda
