// Shared memory of MLA decode on Hopper, and the warps that feed it: see sm90_bf16_mla_decode.cuh.
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
inline constexpr int kStages = 2;        // blocks in shared memory
inline constexpr int kPanelBytes = kBlockTokens * 128;
inline constexpr int kConsumers = 2 * 128;
inline constexpr int kThreads = kConsumers + 128;
// A block arrives and goes in three parts: the panels of the first warpgroup's columns, those of the second, and the
// rotated part, which the weights replace.
inline constexpr int kParts = 3;

struct Shared {
  uint8_t query[kPanels][kPanelBytes];
  uint8_t stages[kStages][kPanels][kPanelBytes];
  float maximum[kHeads];               // of the scores so far, times log2(e): see UpdateMaximum
  float denominators[2][kHeads];       // of the even blocks and of the odd ones, at the end
  float shrink[kStages][kHeads];       // what a block's maximum makes of the sum before it
  uint64_t query_full;
  uint64_t full[kStages][kParts];
  uint64_t empty[kStages][kParts];
  uint64_t maxima[kStages];            // the block's maximum and shrink are written
  uint64_t weights[kStages];           // and its weights
  uint64_t denominators_full;
  __device__ uint8_t* Block(int panel, int block) { return stages[block % kStages][panel]; }
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

// Everything that the copy engine reads from.
struct Maps {
  CUtensorMap query;    // boxes of 64 heads x 64 columns
  CUtensorMap cache;    // boxes of one page x 64 columns
  CUtensorMap latents;  // boxes of one page of 64 tokens x 4 panels of 64 columns
};

// One thread brings one part of every block. A copy takes its thread about 100 cycles to issue, which is why there are
// three of them, and why pages of 64 tokens are the fastest: one copy a part.
template <int kPart>
__device__ inline void Produce(Shared& s, const Maps& maps, const MlaDecode& p, const Work& work) {
  constexpr int kFirstPanel = 4 * kPart, kPartPanels = kPart < 2 ? 4 : 1;
  if constexpr (kPart == 2) {
    BarrierArriveExpect(&s.query_full, kPanels * kPanelBytes);
    for (int panel = 0; panel < kPanels; ++panel) {
      CopyTensor2d(&maps.query, &s.query_full, s.query[panel], 64 * panel, work.row * p.heads + work.head, kEvictFirst);
    }
  }
  // One tile of heads uses each block up; several share it in L2.
  const uint64_t hint = p.heads <= kHeads ? kEvictFirst : kEvictNormal;
  const int page_shift = __ffs(p.page_tokens) - 1, block_pages = kBlockTokens >> page_shift;
  int next_page = __ldg(work.pages);
  for (int block = 0; block < work.blocks; ++block) {
    const int stage = block % kStages;
    const int pages = (min(kBlockTokens, work.tokens - block * kBlockTokens) + p.page_tokens - 1) >> page_shift;
    int page = next_page;
    if (block + 1 < work.blocks) next_page = __ldg(work.pages + (block + 1) * block_pages);
    uint64_t* full = &s.full[stage][kPart];
    BarrierWait(&s.empty[stage][kPart], block / kStages & 1 ^ 1);
    BarrierArriveExpect(full, (pages << page_shift) * 128 * kPartPanels);
    if (kPart < 2 && block_pages == 1) {
      CopyTensor3d(&maps.latents, full, s.stages[stage][kFirstPanel], 0, page * kBlockTokens, kFirstPanel, hint);
      continue;
    }
    for (int i = 0; i < pages; ++i) {
      const int following = i + 1 < pages ? __ldg(work.pages + block * block_pages + i + 1) : 0;
#pragma unroll
      for (int panel = kFirstPanel; panel < kFirstPanel + kPartPanels; ++panel) {
        CopyTensor2d(&maps.cache, full, s.stages[stage][panel] + (i << page_shift) * 128, 64 * panel, page << page_shift, hint);
      }
      page = following;
    }
  }
}

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_STAGES_CUH_
