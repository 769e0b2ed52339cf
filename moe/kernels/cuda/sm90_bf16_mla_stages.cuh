// Shared memory of MLA decode on Hopper, and the warp that feeds it: see sm90_bf16_mla_decode.cuh.
#ifndef CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_STAGES_CUH_
#define CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_STAGES_CUH_

#include "moe/kernels/cuda/mla_decode.h"
#include "moe/kernels/cuda/sm90_ptx.cuh"

namespace conclave::sm90::mla {

using conclave::cuda::kMlaSplitTokens;
using conclave::cuda::MlaDecode;

inline constexpr int kHeads = 64;        // of one tile: the rows of a wgmma
inline constexpr int kBlockTokens = 64;
inline constexpr int kLatent = 512;
inline constexpr int kRope = 64;
inline constexpr int kPanels = (kLatent + kRope) / 64;
inline constexpr int kPanelBytes = kBlockTokens * 128;
inline constexpr int kStageBytes = kPanels * kPanelBytes;
inline constexpr int kStages = 2;
inline constexpr int kConsumers = 2 * 128;
inline constexpr int kThreads = kConsumers + 128;
// A stage fills and empties in three parts: the panels of the first warpgroup's columns, those of the second, and the
// rotated part with the weights.
inline constexpr int kParts = 3;

__host__ __device__ constexpr int PartPanels(int part) { return part < 2 ? 4 : 1; }

struct Shared {
  uint8_t query[kPanels * kPanelBytes];
  uint8_t stages[kStages][kStageBytes];
  float maximum[kHeads];      // of the scores so far, times log2(e)
  float denominator[kHeads];
  float shrink[kStages][kHeads];  // what a block's maximum makes of the sum before it
  uint64_t query_full;
  uint64_t full[kStages][kParts];
  uint64_t empty[kStages][kParts];
  uint64_t weights[kStages];  // the block's weights, maximum and shrink are written
};
inline constexpr int kSharedBytes = sizeof(Shared) + 1024;  // and what alignment may lose

// Which part of the problem this block of threads has.
struct Work {
  int row, head, split;
  int tokens;  // of this split
  int blocks;
  int splits;  // of this row
  const int32_t* pages;  // from the split's first page
};

__device__ inline Work ThisWork(const MlaDecode& p) {
  const int tiles = (p.heads + kHeads - 1) / kHeads;
  Work work;
  work.row = blockIdx.x / tiles;
  work.head = blockIdx.x % tiles * kHeads;
  work.split = blockIdx.y;
  const int length = __ldg(p.lengths + work.row);
  work.splits = (length + kMlaSplitTokens - 1) / kMlaSplitTokens;
  work.tokens = min(length - work.split * kMlaSplitTokens, kMlaSplitTokens);
  work.blocks = (work.tokens + kBlockTokens - 1) / kBlockTokens;
  const int table = p.table_of_row ? __ldg(p.table_of_row + work.row) : work.row;
  work.pages = p.page_tables + static_cast<int64_t>(table) * p.table_stride + work.split * (kMlaSplitTokens / p.page_tokens);
  return work;
}

// One thread feeds the stages.
__device__ inline void Produce(Shared& s, const CUtensorMap& query, const CUtensorMap& cache, const MlaDecode& p,
                               const Work& work) {
  BarrierArriveExpect(&s.query_full, kPanels * kPanelBytes);
  for (int panel = 0; panel < kPanels; ++panel) {
    CopyTensor2d(&query, &s.query_full, s.query + panel * kPanelBytes, 64 * panel, work.row * p.heads + work.head, kEvictFirst);
  }
  // One tile of heads uses each block up; several share it in L2.
  const uint64_t hint = p.heads <= kHeads ? kEvictFirst : kEvictNormal;
  for (int block = 0; block < work.blocks; ++block) {
    const int stage = block % kStages;
    const int pages = (min(kBlockTokens, work.tokens - block * kBlockTokens) + p.page_tokens - 1) / p.page_tokens;
    for (int part = 0; part < kParts; ++part) {
      BarrierWait(&s.empty[stage][part], block / kStages & 1 ^ 1);
      uint64_t* full = &s.full[stage][part];
      BarrierArriveExpect(full, pages * p.page_tokens * 128 * PartPanels(part));
      for (int page = 0; page < pages; ++page) {
        const int slot = __ldg(work.pages + block * (kBlockTokens / p.page_tokens) + page) * p.page_tokens;
        for (int panel = 4 * part; panel < 4 * part + PartPanels(part); ++panel) {
          CopyTensor2d(&cache, full, s.stages[stage] + panel * kPanelBytes + page * p.page_tokens * 128, 64 * panel, slot, hint);
        }
      }
    }
  }
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_STAGES_CUH_
