// The SwiGLU feed-forward network of one expert, and the grouped form that runs many experts over many rows.
// Local pools and remote shards run this very code, which is why their results are equal bit for bit.
#ifndef CONCLAVE_MOE_MODEL_EXPERT_FFN_H_
#define CONCLAVE_MOE_MODEL_EXPERT_FFN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// y = down · (silu(gate · x) ⊙ (up · x)). Views into a checkpoint.
struct FfnWeights {
  WeightView gate;  // [intermediate, hidden]
  WeightView up;    // [intermediate, hidden]
  WeightView down;  // [hidden, intermediate]
};

// "model.layers.3.mlp.experts.7"
std::string ExpertPrefix(LayerId layer, ExpertId expert);
// The matrices `prefix`.gate_proj, .up_proj and .down_proj. Errors as Checkpoint::Weight.
absl::StatusOr<FfnWeights> LoadFfn(const Checkpoint& checkpoint, absl::string_view prefix, int hidden,
                                   int intermediate);

// Runs experts over the rows that chose them. Pairs are sorted by expert and worked off in waves of bounded size, so
// that memory does not grow with top_k. Used by one thread at a time, which fans out over `threads`.
class GroupedExperts {
 public:
  // Sized for calls of up to `pairs_max` (row, expert) pairs.
  GroupedExperts(const Kernels& kernels, ThreadPool& threads, int hidden, int intermediate, int pairs_max);

  // out[p] = round(FFN_{experts[p]}(rows[i])) for every pair p of row i, row_offsets[i] <= p < row_offsets[i + 1].
  // rows: [rows, hidden], out: [pairs, hidden]; both of the row dtype (F32 with Compute::kF32, else BF16).
  // `weights` maps an expert id to its matrices. REQUIRES: pairs <= pairs_max; ids valid (the caller has checked).
  void Run(ConstMatView rows, absl::Span<const uint32_t> row_offsets, absl::Span<const int32_t> experts,
           absl::FunctionRef<const FfnWeights&(ExpertId)> weights, MatView out);

 private:
  // Sorted pairs [begin, begin + count) of one expert; their scratch rows start at `row`.
  struct Group {
    const FfnWeights* weights;
    int64_t begin;
    int64_t count;
    int64_t row;
  };
  void SortPairs(absl::Span<const uint32_t> row_offsets, absl::Span<const int32_t> experts);
  // The three loops of a wave.
  void Pack(ConstMatView rows);
  void RunInner();
  void RunDown(MatView out);
  int64_t AverageRows() const;  // of the wave's groups
  // A group's rows, as products with some of its matrices read them.
  PackedRows Gathered(const Group& group);    // gate and up
  PackedRows Activation(const Group& group);  // down

  const Kernels& kernels_;
  ThreadPool& threads_;
  int hidden_;
  int intermediate_;
  int pairs_max_;
  int wave_pairs_;
  MatBuffer gathered_;             // [wave_pairs, bytes of a packed row]: rows sorted by expert, packed by group
  MatBuffer gate_;                 // [wave_pairs, intermediate] F32
  MatBuffer up_;                   // [wave_pairs, intermediate] F32
  MatBuffer activation_;           // [wave_pairs, bytes of a packed row], like gathered_
  MatBuffer down_;                 // [wave_pairs, hidden] F32
  std::vector<int32_t> order_;     // [pairs_max] pairs sorted by expert, then by pair
  std::vector<int32_t> pair_row_;  // [pairs_max] the row of each pair
  std::vector<int32_t> sources_;   // [pairs_max] the row of each sorted pair
  std::vector<int32_t> first_;     // [limits::kExpertsPerLayerMax + 1] for the counting sort
  std::vector<Group> groups_;      // of the current wave
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_EXPERT_FFN_H_
