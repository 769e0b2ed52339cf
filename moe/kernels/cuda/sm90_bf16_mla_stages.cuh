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
// A block arrives and goes in pieces: two pairs of panels of the first warpgroup's columns, two of the second's, and
// the rotated part, which the weights replace.
inline constexpr int kPiecePanels = 2;
inline constexpr int kPieces = 8 / kPiecePanels + 1;
inline constexpr int kHalfPieces = 4 / kPiecePanels;  // of one warpgroup's columns

// What a block of threads computes next: 64 heads of one row over one split of its tokens.
struct Work {
  int row;     // negative: no more work
  int head, split;
  bool whole;  // the block takes all splits of the row, one after the other
  int tokens;  // of this split; 0 where the row has none at all
  int blocks;
  int splits;  // of this row
  const int32_t* pages;  // from the split's first

  __device__ bool BringsQuery() const { return row >= 0 && blocks > 0 && !(whole && split > 0); }
};

// How many tiles of heads, the first ones of all rows, have all splits taken by one block of threads each; the rest are
// dealt split by split. Where rows have two splits at most and there are enough of them for `blocks` blocks of threads,
// this saves most of the way through memory. Bits do not depend on it.
inline int WholeTiles(const MlaDecode& p, int blocks) {
  const int tiles = (p.heads + kHeads - 1) / kHeads, splits = (p.tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens;
  const int64_t all = int64_t{p.rows} * tiles, rest = all % blocks;
  if (splits == 1) return static_cast<int>(all);
  // One long row among short ones must not wait for one block; a row of parts has room for 16 heads kept.
  if (splits > 2 || p.heads < 16) return 0;
  const bool whole_rest = rest * splits > int64_t{blocks} * (splits - 1);  // split by split it would take no less time
  return static_cast<int>(whole_rest ? all : (all - rest) / tiles * tiles);
}

struct Shared {
  uint8_t query[kPanels][kPanelBytes];
  uint8_t stages[kStages][kPanels][kPanelBytes];
  float maximum[kHeads];               // of the scores so far, times log2(e): see UpdateMaximum
  float denominators[2][2][kHeads];    // by the work's parity: of the even blocks and of the odd ones, at the end
  float shrink[kStages][kHeads];       // what a block's maximum makes of the sum before it
  alignas(16) uint8_t scratch[kConsumers / 32][512];  // of a warp, to bring results into rows
  float2 ends_kept[kHeads];            // maximum and denominator of a whole row's first split
  Work work[2];                        // by its parity; there when its query is
  uint64_t query_full;
  uint64_t query_empty;                // no scores need it any more
  uint64_t full[kStages][kPieces];
  uint64_t empty[kStages][kPieces];
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

// Deals work to blocks of threads, as many as multiprocessors: neighbours get the tiles of heads of one row, which
// share its tokens in L2. Called by whole warps.
class WorkDealer {
 public:
  // The first `whole` tiles have their splits dealt to one block each.
  __device__ WorkDealer(const MlaDecode& p, int whole)
      : p_(p),
        tiles_((p.heads + kHeads - 1) / kHeads),
        whole_(whole),
        of_split_(p.rows * tiles_ - whole),
        next_(blockIdx.x) {
    count_ = whole + of_split_ * ((p.tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens);
  }

  // What follows `work`. The lanes look at one candidate each: most rows may be far shorter than the longest.
  __device__ Work After(const Work& work) {
    if (!work.whole || work.split + 1 >= work.splits) return Next();
    Work following = work;
    ++following.split;
    following.tokens = min(__ldg(p_.lengths + work.row) - following.split * kMlaSplitTokens, kMlaSplitTokens);
    following.blocks = (following.tokens + kBlockTokens - 1) / kBlockTokens;
    following.pages += kMlaSplitTokens / p_.page_tokens;
    return following;
  }

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
      work.whole = __shfl_sync(~0u, mine.whole, first);
      work.tokens = __shfl_sync(~0u, mine.tokens, first);
      work.splits = __shfl_sync(~0u, mine.splits, first);
      work.blocks = (work.tokens + kBlockTokens - 1) / kBlockTokens;
      const int table = p_.table_of_row ? __ldg(p_.table_of_row + work.row) : work.row;
      work.pages = p_.page_tables + static_cast<int64_t>(table) * p_.table_stride +
                   work.split * (kMlaSplitTokens / p_.page_tokens);
      return work;
    }
    return Work{-1};
  }

 private:
  __device__ Work At(int number) const {
    if (number >= count_) return Work{-1};
    Work work;
    work.whole = number < whole_;
    work.split = work.whole ? 0 : (number - whole_) / of_split_;
    const int tile = number - work.split * of_split_;
    work.row = tile / tiles_;
    work.head = (tile - work.row * tiles_) * kHeads;
    const int length = __ldg(p_.lengths + work.row);
    work.splits = (length + kMlaSplitTokens - 1) / kMlaSplitTokens;
    work.tokens = min(length - work.split * kMlaSplitTokens, kMlaSplitTokens);
    if (work.tokens <= 0 && work.split > 0) return Work{-1};
    work.tokens = max(work.tokens, 0);
    return work;
  }

  const MlaDecode& p_;
  const int tiles_, whole_, of_split_;
  int next_, count_;
};

// Everything that the copy engine reads from.
struct Maps {
  CUtensorMap query;  // boxes of 64 heads x 64 columns
  CUtensorMap cache;  // boxes of one page x 64 columns; of a packed cache eight rows' keys
  CUtensorMap pieces;  // boxes of one page of 64 tokens x kPiecePanels panels of 64 columns
};

// Tells the consumers what they work on, and brings its query. Called by one whole warp: all lanes wait, the first
// asks. Once the work before the last has its scores, nobody looks at its slot.
__device__ inline void TellWork(Shared& s, const Maps& maps, const MlaDecode& p, const Work& work, int number) {
  BarrierWait(&s.query_empty, number & 1 ^ 1);
  if (threadIdx.x % 32 == 0) {
    s.work[number & 1] = work;
    const bool brings = work.BringsQuery();
    BarrierArriveExpect(&s.query_full, brings ? kPanels * kPanelBytes : 0);
    for (int panel = 0; brings && panel < kPanels; ++panel) {
      CopyTensor2d(&maps.query, &s.query_full, s.query[panel], 64 * panel, work.row * p.heads + work.head, kEvictFirst);
    }
  }
  __syncwarp();
}

// A warp brings one piece of every block; the last brings the rotated part and queries too, and tells the consumers
// what they work on, and the first calls blocks ahead. All lanes wait, for a warp whose lanes part cannot sleep at a
// barrier and takes the consumers' issue slots; the first asks. A copy takes about 100 cycles to ask for, which is why
// pages of 64 tokens are the fastest: one copy a piece.
class Producer {
 public:
  __device__ Producer(Shared& s, const Maps& maps, const MlaDecode& p, int whole, int warp)
      : s_(s), maps_(maps), p_(p), warp_(warp), asks_(threadIdx.x % 32 == 0), dealer_(p, whole) {}

  __device__ void Run() {
    int number = 0;
    for (Work work = dealer_.Next();; work = dealer_.After(work), ++number) {
      if (warp_ == 3) TellWork(s_, maps_, p_, work, number);
      if (work.row < 0) return;
#pragma unroll 1
      for (int block = 0; block < work.blocks; ++block) BringBlock(work, block);
      first_ += work.blocks;
    }
  }

 private:
  __device__ void BringBlock(const Work& work, int block) {
    const int shift = __ffs(p_.page_tokens) - 1;
    const int count = (min(kBlockTokens, work.tokens - block * kBlockTokens) + p_.page_tokens - 1) >> shift;
    const int32_t* const pages = work.pages + (block * kBlockTokens >> shift);
    const Place at(first_ + block);
    if (warp_ < kPieces - 1) AskForPiece(at, pages, count, warp_, kPiecePanels);
    if (warp_ == 3) AskForPiece(at, pages, count, kPieces - 1, 1);
    if (warp_ == 0 && asks_ && p_.heads > kHeads && block + kStages < work.blocks) PrefetchBlock(work, block + kStages);
    __syncwarp();
  }

  // Asks L2 for a block, this tile's share of it, where multiplying takes longer than reading: by the time that shared
  // memory has room for it, it has come.
  __device__ void PrefetchBlock(const Work& work, int block) const {
    const int tiles = (p_.heads + kHeads - 1) / kHeads;
    const uint32_t bytes = p_.page_tokens * ((kLatent + kRope) * 2), share = bytes / tiles / 16 * 16;
    const int block_pages = kBlockTokens / p_.page_tokens, last = (work.tokens - 1) / p_.page_tokens;
    const uint32_t from = work.head / kHeads * share, size = work.head + kHeads < p_.heads ? share : bytes - from;
#pragma unroll 1
    for (int page = block * block_pages; page < (block + 1) * block_pages && page <= last; ++page) {
      PrefetchBulk(
          static_cast<const uint8_t*>(p_.cache) + static_cast<int64_t>(__ldg(work.pages + page)) * bytes + from, size);
    }
  }

  __device__ void AskForPiece(Place at, const int32_t* pages, int count, int piece, int panels) {
    // Not kEvictFirst, even where one tile of heads uses each block up: where L2 holds much that was written, as behind
    // a fill, blocks would stream 5 to 7% slower.
    int page = __ldg(pages);
    uint64_t* const full = &s_.full[at.stage][piece];
    uint8_t* const to = at.Panel(s_, piece * kPiecePanels);
    BarrierWait(&s_.empty[at.stage][piece], at.phase ^ 1);
    if (!asks_) return;
    BarrierArriveExpect(full, count * p_.page_tokens * 128 * panels);
    if (panels > 1 && p_.page_tokens == kBlockTokens) {
      CopyTensor3d(&maps_.pieces, full, to, 0, page * kBlockTokens, piece * kPiecePanels, kEvictNormal);
      return;
    }
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const int following = i + 1 < count ? __ldg(pages + i + 1) : 0;
#pragma unroll 1
      for (int panel = 0; panel < panels; ++panel) {
        CopyTensor2d(&maps_.cache, full, to + panel * kPanelBytes + i * p_.page_tokens * 128,
                     64 * (piece * kPiecePanels + panel), page * p_.page_tokens, kEvictNormal);
      }
      page = following;
    }
  }

  Shared& s_;
  const Maps& maps_;
  const MlaDecode& p_;
  const int warp_;
  const bool asks_;
  WorkDealer dealer_;
  int first_ = 0;  // blocks of all work before
};

}  // namespace conclave::sm90::mla

#endif  // CONCLAVE_MOE_KERNELS_CUDA_SM90_BF16_MLA_STAGES_CUH_
