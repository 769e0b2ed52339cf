// The gate's choice, a warp for each row: scores, biased choice, groups, top-k (moe/model/gate.h says by which rule).
#include "moe/kernels/cuda/device_ops.cuh"
#include "moe/kernels/cuda/overlap.cuh"

namespace conclave::cuda {
namespace {

// A value and where it stands; of equal values the first is better, and NaN is none.
struct Best {
  float value;
  int index;
};

// REQUIRES: a.value is a number.
__device__ Best Better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

// The best entry of values [count], which every lane gets; entries that are out hold NaN.
__device__ Best WarpBest(const float* values, int count) {
  Best best{-INFINITY, 0x7fffffff};
  for (int i = threadIdx.x; i < count; i += 32) best = Better(best, Best{values[i], i});
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    best = Better(best, Best{__shfl_xor_sync(0xffffffffu, best.value, offset),
                             __shfl_xor_sync(0xffffffffu, best.index, offset)});
  }
  return best;
}

// Takes the `count` best of values, lower index first among equals: they become NaN, which no comparison takes.
__device__ void TakeBest(float* values, int size, int count) {
  for (int k = 0; k < count; ++k) {
    const Best best = WarpBest(values, size);
    __syncwarp();  // all lanes have read
    if (threadIdx.x == 0) values[best.index] = NAN;
    __syncwarp();
  }
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
  float largest = 0.0f, total = 1.0f;
  if (args.softmax) {
    largest = -INFINITY;
    for (int i = 0; i < args.experts; ++i) largest = fmaxf(largest, logits[i]);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < args.experts; i += 32) sum += expf(logits[i] - largest);
    total = WarpSum(sum);
  }
  for (int i = threadIdx.x; i < args.experts; i += 32) {
    const float score = args.softmax ? expf(logits[i] - largest) / total : 1.0f / (1.0f + expf(-logits[i]));
    const float chosen = args.bias == nullptr ? score : score + args.bias[i];
    scores[i] = score;
    choice[i] = isnan(chosen) ? -INFINITY : chosen;
  }
  __syncwarp();
}

__device__ void DropGroups(const SelectArgs& args, float* choice, float* group_scores) {
  const int size = args.experts / args.groups;
  for (int group = threadIdx.x; group < args.groups; group += 32) {
    group_scores[group] = GroupScore(choice + group * size, size, args.group_sum_of_two);
  }
  __syncwarp();
  TakeBest(group_scores, args.groups, args.groups_kept);
  for (int i = threadIdx.x; i < args.experts; i += 32) {
    if (!isnan(group_scores[i / size])) choice[i] = -INFINITY;
  }
  __syncwarp();
}

// The chosen experts, ascending, and their weights.
__device__ void WriteChosen(const SelectArgs& args, const float* scores, const float* choice, int64_t row) {
  int32_t* experts = args.experts_out + row * args.top_k;
  float* weights = args.weights_out + row * args.top_k;
  int before = 0;
  for (int base = 0; base < args.experts; base += 32) {
    const int i = base + threadIdx.x;
    const unsigned chosen = __ballot_sync(0xffffffffu, i < args.experts && isnan(choice[i]));
    if (chosen >> threadIdx.x & 1) {
      const int k = before + __popc(chosen & ((1u << threadIdx.x) - 1));
      experts[k] = i;
      weights[k] = scores[i];
    }
    before += __popc(chosen);
  }
  __syncwarp();
  if (threadIdx.x != 0) return;
  float sum = 0.0f;
  for (int k = 0; k < args.top_k; ++k) sum += weights[k];
  for (int k = 0; k < args.top_k; ++k) {
    weights[k] = (args.normalise ? weights[k] / (sum + 1e-20f) : weights[k]) * args.scaling;
  }
}

// Shared memory: scores, choice, group scores [experts] each.
__global__ void __launch_bounds__(32) SelectKernel(SelectArgs args) {
  FollowKernelsBefore();
  extern __shared__ float shared[];
  float *scores = shared, *choice = shared + args.experts, *group_scores = shared + 2 * args.experts;
  const int64_t row = blockIdx.x;
  Score(args, args.logits + row * args.experts, scores, choice);
  if (args.by_groups && args.groups > args.groups_kept) DropGroups(args, choice, group_scores);
  TakeBest(choice, args.experts, args.top_k);
  WriteChosen(args, scores, choice, row);
}

}  // namespace

void SelectExperts(const SelectArgs& args, cudaStream_t stream) {
  const int bytes = args.experts * static_cast<int>(3 * sizeof(float));
  if (bytes > 48 * 1024) cudaFuncSetAttribute(SelectKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  LaunchOverlapped(SelectKernel, dim3(static_cast<unsigned>(args.rows)), 32, bytes, stream, args);
}

}  // namespace conclave::cuda
