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

// What a block of threads computes next: 64 heads of one row over one split of its tokens.
struct Work {
  int row;     // negative: no more work
  int head, split;
  int tokens;  // of this split; 0 where the row has none at all
  int blocks;
  int splits;  // of this row
  const int32_t* pages;  // from the split's first
};

struct Shared {
  uint8_t query[kPanels][kPanelBytes];
  uint8_t stages[kStages][kPanels][kPanelBytes];
  float maximum[kHeads];               // of the scores so far, times log2(e): see UpdateMaximum
  float denominators[2][2][kHeads];    // by the work's parity: of the even blocks and of the odd ones, at the end
  float shrink[kStages][kHeads];       // what a block's maximum makes of the sum before it
  Work work[2];                        // by its parity; there when its query is
  uint64_t query_full;
  uint64_t query_empty;                // no scores need it any more
  uint64_t full[kStages][kParts];
  uint64_t empty[kStages][kParts];
  uint64_t maxima[kStages];            // the block's maximum and shrink are written
  uint64_t weights[kStages];           // and its weights
  uint64_t denominators_full;
};
inline constexpr int kSharedBytes = sizeof(Shared) + 1024;  // and what alignment may lose

// Where block `number`, counted over all work, stands in shared memory.
struct Place {
  int stage;
  uint32_t phase;
  __device__ explicit Place(int number) : stage(number % kStages), phase(number / kStages & 1) {}
  __device__ uint8_t* Panel(Shared& s, int panel) const { return s.stages[stage][panel]; }
};

// Deals work to blocks of threads, as many as multiprocessors: neighbours get the tiles of heads of one row, which share
// its tokens in L2. Called by whole warps.
class WorkDealer {
 public:
  __device__ explicit WorkDealer(const MlaDecode& p)
      : p_(p), tiles_((p.heads + kHeads - 1) / kHeads), of_split_(p.rows * tiles_), next_(blockIdx.x) {
    count_ = of_split_ * ((p.tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens);
  }

  // The lanes look at one candidate each: most rows may be far shorter than the longest.
  __device__ Work Next() {
    const int lane = threadIdx.x % 32;
    while (next_ < count_) {
      const Work mine = At(next_ + lane * static_cast<int>(gridDim.x));
      const uint32_t some = __ballot_sync(~0u, mine.row >= 0);
      if (some == 0) {
        next_ += 32 * gridDim.x;
        continue;
      }
      const int first = __ffs(some) - 1;
      next_ += (first + 1) * gridDim.x;
      Work work;
      work.row = __shfl_sync(~0u, mine.row, first);
      work.head = __shfl_sync(~0u, mine.head, first);
      work.split = __shfl_sync(~0u, mine.split, first);
      work.tokens = __shfl_sync(~0u, mine.tokens, first);
      work.splits = __shfl_sync(~0u, mine.splits, first);
      work.blocks = (work.tokens + kBlockTokens - 1) / kBlockTokens;
      const int table = p_.table_of_row ? __ldg(p_.table_of_row + work.row) : work.row;
      work.pages = p_.page_tables + static_cast<int64_t>(table) * p_.table_stride + work.split * (kMlaSplitTokens / p_.page_tokens);
      return work;
    }
    return Work{-1};
  }

 private:
  __device__ Work At(int number) const {
    if (number >= count_) return Work{-1};
    Work work;
    work.split = number / of_split_;
    const int in_split = number - work.split * of_split_;
    work.row = in_split / tiles_;
    work.head = (in_split - work.row * tiles_) * kHeads;
    const int length = __ldg(p_.lengths + work.row);
    work.splits = (length + kMlaSplitTokens - 1) / kMlaSplitTokens;
    work.tokens = min(length - work.split * kMlaSplitTokens, kMlaSplitTokens);
    if (work.tokens <= 0 && number >= of_split_) return Work{-1};
    work.tokens = max(work.tokens, 0);
    return work;
  }

  const MlaDecode& p_;
  const int tiles_, of_split_;
  int next_, count_;
};

// Everything that the copy engine reads from.
struct Maps {
  CUtensorMap query;    // boxes of 64 heads x 64 columns
  CUtensorMap cache;    // boxes of one page x 64 columns
  CUtensorMap latents;  // boxes of one page of 64 tokens x 4 panels of 64 columns
};

// Tells the consumers what they work on, and brings its query. Called by one whole warp: all lanes wait, the first asks.
// Once the work before the last has its scores, nobody looks at its slot.
__device__ inline void TellWork(Shared& s, const Maps& maps, const MlaDecode& p, const Work& work, int number) {
  BarrierWait(&s.query_empty, number & 1 ^ 1);
  if (threadIdx.x % 32 == 0) {
    s.work[number & 1] = work;
    const bool has_query = work.row >= 0 && work.blocks > 0;
    BarrierArriveExpect(&s.query_full, has_query ? kPanels * kPanelBytes : 0);
    for (int panel = 0; has_query && panel < kPanels; ++panel) {
      CopyTensor2d(&maps.query, &s.query_full, s.query[panel], 64 * panel, work.row * p.heads + work.head, kEvictFirst);
    }
  }
  __syncwarp();
}

// A warp brings one part of every block. All lanes wait, for a warp whose lanes part cannot sleep at a barrier and takes
// the consumers' issue slots; the first asks. A copy takes about 100 cycles to ask for, which is why there are three warps,
// and why pages of 64 tokens are the fastest: one copy a part. The third brings queries too, and tells the consumers what
// they work on.
template <int kPart>
class Producer {
 public:
  __device__ Producer(Shared& s, const Maps& maps, const MlaDecode& p)
      : s_(s), maps_(maps), p_(p), asks_(threadIdx.x % 32 == 0), dealer_(p) {}

  __device__ void Run() {
    int number = 0;
    for (Work work = dealer_.Next();; work = dealer_.Next(), ++number) {
      if constexpr (kPart == 2) TellWork(s_, maps_, p_, work, number);
      if (work.row < 0) return;
      for (int block = 0; block < work.blocks; ++block) BringPart(work, block);
      first_ += work.blocks;
    }
  }

 private:
  __device__ void BringPart(const Work& work, int block) {
    const int stage = (first_ + block) % kStages;
    const int32_t* const pages = work.pages + block * (kBlockTokens / p_.page_tokens);
    const int page = __ldg(pages);
    BarrierWait(&s_.empty[stage][kPart], (first_ + block) / kStages & 1 ^ 1);
    if (asks_) {
      AskForPart(work, pages, page, block, stage);
      if (kPart == 2 && p_.heads > kHeads && block + kStages < work.blocks) PrefetchBlock(work, block + kStages);
    }
    __syncwarp();
  }

  // Asks L2 for a block, this tile's share of it, where multiplying takes longer than reading: by the time that shared
  // memory has room for it, it has come.
  __device__ void PrefetchBlock(const Work& work, int block) const {
    const int tiles = (p_.heads + kHeads - 1) / kHeads;
    const uint32_t bytes = p_.page_tokens * ((kLatent + kRope) * 2), share = bytes / tiles / 16 * 16;
    const int block_pages = kBlockTokens / p_.page_tokens, last = (work.tokens - 1) / p_.page_tokens;
    const uint32_t from = work.head / kHeads * share, size = work.head + kHeads < p_.heads ? share : bytes - from;
    for (int page = block * block_pages; page < (block + 1) * block_pages && page <= last; ++page) {
      PrefetchBulk(static_cast<const uint8_t*>(p_.cache) + static_cast<int64_t>(__ldg(work.pages + page)) * bytes + from, size);
    }
  }

  __device__ void AskForPart(const Work& work, const int32_t* pages, int page, int block, int stage) {
    constexpr int kFirstPanel = 4 * kPart, kPartPanels = kPart < 2 ? 4 : 1;
    // One tile of heads uses each block up; several share it in L2.
    const uint64_t hint = p_.heads <= kHeads ? kEvictFirst : kEvictNormal;
    const int page_shift = __ffs(p_.page_tokens) - 1;
    const int count = (min(kBlockTokens, work.tokens - block * kBlockTokens) + p_.page_tokens - 1) >> page_shift;
    uint64_t* const full = &s_.full[stage][kPart];
    BarrierArriveExpect(full, (count << page_shift) * 128 * kPartPanels);
    if (kPart < 2 && p_.page_tokens == kBlockTokens) {
      CopyTensor3d(&maps_.latents, full, s_.stages[stage][kFirstPanel], 0, page * kBlockTokens, kFirstPanel, hint);
      return;
    }
    for (int i = 0; i < count; ++i) {
      const int following = i + 1 < count ? __ldg(pages + i + 1) : 0;
#pragma unroll
      for (int panel = kFirstPanel; panel < kFirstPanel + kPartPanels; ++panel) {
        CopyTensor2d(&maps_.cache, full, s_.stages[stage][panel] + (i << page_shift) * 128, 64 * panel, page << page_shift, hint);
      }
      page = following;
    }
  }

  Shared& s_;
  const Maps& maps_;
  const MlaDecode& p_;
  const bool asks_;
  WorkDealer dealer_;
  int first_ = 0;  // blocks of all work before
};

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_STAGES_CUH_
