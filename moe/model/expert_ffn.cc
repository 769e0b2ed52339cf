#include "moe/model/expert_ffn.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/kernels/parallel.h"
#include "moe/model/linears.h"
#include "moe/model/numeric_profile.h"

namespace conclave {
namespace {
// Enough rows to keep matrix kernels busy, few enough that a shard's scratch stays small beside its experts.
constexpr int kWavePairsMax = 512;
}  // namespace

std::string ExpertPrefix(LayerId layer, ExpertId expert) {
  return absl::StrCat("model.layers.", Value(layer), ".mlp.experts.", Value(expert));
}

absl::StatusOr<FfnWeights> LoadFfn(const Checkpoint& checkpoint, absl::string_view prefix, int hidden,
                                   int intermediate) {
  FfnWeights ffn;
  ASSIGN_OR_RETURN(ffn.gate, checkpoint.Weight(absl::StrCat(prefix, ".gate_proj.weight"), intermediate, hidden));
  ASSIGN_OR_RETURN(ffn.up, checkpoint.Weight(absl::StrCat(prefix, ".up_proj.weight"), intermediate, hidden));
  if (ffn.gate.matrix.dtype != ffn.up.matrix.dtype) {
    return absl::DataLossError(absl::StrCat(checkpoint.directory(), ": ", prefix, ".gate_proj is ",
                                            Name(ffn.gate.matrix.dtype), " but .up_proj is ", Name(ffn.up.matrix.dtype),
                                            "; store both the same way"));
  }
  ASSIGN_OR_RETURN(ffn.down, checkpoint.Weight(absl::StrCat(prefix, ".down_proj.weight"), hidden, intermediate));
  return ffn;
}

GroupedExperts::GroupedExperts(const Kernels& kernels, ThreadPool& threads, int hidden, int intermediate, int pairs_max)
    : kernels_(kernels),
      threads_(threads),
      hidden_(hidden),
      intermediate_(intermediate),
      pairs_max_(pairs_max),
      wave_pairs_(std::min(pairs_max, kWavePairsMax)),
      gathered_(DType::kU8, wave_pairs_, kernels.packed_bytes(1, hidden)),
      gate_(DType::kF32, wave_pairs_, intermediate),
      up_(DType::kF32, wave_pairs_, intermediate),
      activation_(DType::kU8, wave_pairs_, kernels.packed_bytes(1, intermediate)),
      down_(DType::kF32, wave_pairs_, hidden),
      order_(pairs_max),
      pair_row_(pairs_max),
      sources_(pairs_max),
      first_(limits::kExpertsPerLayerMax + 1) {
  groups_.reserve(wave_pairs_);
}

void GroupedExperts::SortPairs(absl::Span<const uint32_t> row_offsets, absl::Span<const int32_t> experts) {
  for (size_t row = 0; row + 1 < row_offsets.size(); ++row) {
    std::fill(pair_row_.begin() + row_offsets[row], pair_row_.begin() + row_offsets[row + 1], row);
  }
  std::fill(first_.begin(), first_.end(), 0);
  for (const int32_t expert : experts) ++first_[expert + 1];
  for (size_t i = 1; i < first_.size(); ++i) first_[i] += first_[i - 1];
  for (size_t pair = 0; pair < experts.size(); ++pair) order_[first_[experts[pair]]++] = static_cast<int32_t>(pair);
  for (size_t i = 0; i < experts.size(); ++i) sources_[i] = pair_row_[order_[i]];
}

void GroupedExperts::Run(ConstMatView rows, absl::Span<const uint32_t> row_offsets, absl::Span<const int32_t> experts,
                         absl::FunctionRef<const FfnWeights&(ExpertId)> weights, MatView out) {
  const int64_t pairs = static_cast<int64_t>(experts.size());
  CONCLAVE_CHECK(pairs <= pairs_max_) << pairs << " pairs, sized for " << pairs_max_;
  CONCLAVE_CHECK(rows.dtype == RowDType(kernels_.compute) && out.dtype == rows.dtype) << Name(rows.dtype);
  CONCLAVE_CHECK(rows.cols == hidden_ && out.cols == hidden_ && out.rows == pairs) << rows.cols << " columns";
  SortPairs(row_offsets, experts);
  for (int64_t begin = 0; begin < pairs;) {
    // A wave is as many whole experts as fit; one expert with more rows than a wave is cut.
    groups_.clear();
    int64_t used = 0;
    int64_t end = begin;
    while (end < pairs) {
      const int32_t expert = experts[order_[end]];
      int64_t next = end;
      while (next < pairs && next - end < wave_pairs_ && experts[order_[next]] == expert) ++next;
      if (used + next - end > wave_pairs_) break;
      groups_.push_back(Group{&weights(ExpertId{expert}), end, next - end, used});
      used += next - end;
      end = next;
    }
    Pack(rows);
    RunInner();
    RunDown(out);
    begin = end;
  }
}

PackedRows GroupedExperts::Gathered(const Group& group) {
  const RowForms forms = FormOf(group.weights->gate) | FormOf(group.weights->up);
  return PackedRows{gathered_.view().RowBytes(group.row), group.count, hidden_, forms};
}

PackedRows GroupedExperts::Activation(const Group& group) {
  return PackedRows{activation_.view().RowBytes(group.row), group.count, intermediate_, FormOf(group.weights->down)};
}

int64_t GroupedExperts::AverageRows() const {
  const int64_t groups = static_cast<int64_t>(groups_.size());
  return (groups_.back().row + groups_.back().count + groups - 1) / groups;
}

// Each group's rows, gathered once.
void GroupedExperts::Pack(ConstMatView rows) {
  const int64_t groups = static_cast<int64_t>(groups_.size());
  const int64_t grain = TaskGrain(groups, 4 * hidden_ * AverageRows(), threads_.threads());
  threads_.ParallelFor(groups, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Group& group = groups_[i];
      kernels_.pack(rows, sources_.data() + group.begin, 0, group.count, Gathered(group));
    }
  });
}

// A parallel loop over (expert, columns): gate, up and their product. What a piece has of one expert is one call.
void GroupedExperts::RunInner() {
  const int64_t groups = static_cast<int64_t>(groups_.size());
  const int64_t multiple = kernels_.columns_multiple;
  const int64_t grain = LinearGrain(AverageRows(), groups_[0].weights->gate, threads_.threads());
  const int64_t columns = (grain + multiple - 1) / multiple * multiple;
  const int64_t tasks = (intermediate_ + columns - 1) / columns;
  const int64_t work = 2 * AverageRows() * columns * hidden_;
  threads_.ParallelFor(groups * tasks, TaskGrain(groups * tasks, work, threads_.threads()),
                       [&](int64_t first, int64_t last) {
                         for (int64_t task = first, next; task < last; task = next) {
                           next = std::min(last, (task / tasks + 1) * tasks);
                           const Group& group = groups_[task / tasks];
                           const int64_t begin = task % tasks * columns;
                           const int64_t end = std::min<int64_t>(begin + (next - task) * columns, intermediate_);
                           const SwigluScratch scratch = {gate_.view().Rows(group.row, group.count),
                                                          up_.view().Rows(group.row, group.count)};
                           kernels_.swiglu_packed(Gathered(group), group.weights->gate, group.weights->up, begin, end,
                                                  scratch, Activation(group));
                         }
                       });
}

// A parallel loop over (expert, columns): down, and the scatter to pairs.
void GroupedExperts::RunDown(MatView out) {
  const int64_t groups = static_cast<int64_t>(groups_.size());
  const int64_t columns = LinearGrain(AverageRows(), groups_[0].weights->down, threads_.threads());
  const int64_t tasks = (hidden_ + columns - 1) / columns;
  const int64_t work = AverageRows() * columns * intermediate_;
  threads_.ParallelFor(groups * tasks, TaskGrain(groups * tasks, work, threads_.threads()),
                       [&](int64_t first, int64_t last) {
                         for (int64_t task = first, next; task < last; task = next) {
                           next = std::min(last, (task / tasks + 1) * tasks);
                           const Group& group = groups_[task / tasks];
                           const int64_t begin = task % tasks * columns;
                           const int64_t count = std::min<int64_t>((next - task) * columns, hidden_ - begin);
                           const MatView down = down_.view().Rows(group.row, group.count);
                           kernels_.linear_packed(Activation(group), group.weights->down, begin, begin + count, down);
                           for (int64_t i = 0; i < group.count; ++i) {
                             kernels_.convert(down.Rows(i, 1).Cols(begin, count),
                                              out.Rows(order_[group.begin + i], 1).Cols(begin, count));
                           }
                         }
                       });
}

}  // namespace conclave
