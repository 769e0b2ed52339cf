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
      gathered_(RowDType(kernels.compute), wave_pairs_, hidden),
      gate_(DType::kF32, wave_pairs_, intermediate),
      up_(DType::kF32, wave_pairs_, intermediate),
      activation_(RowDType(kernels.compute), wave_pairs_, intermediate),
      down_(DType::kF32, wave_pairs_, hidden),
      order_(pairs_max),
      pair_row_(pairs_max),
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
    Gather(rows, begin, used);
    RunWave(out);
    begin = end;
  }
}

void GroupedExperts::Gather(ConstMatView rows, int64_t begin, int64_t count) {
  const int64_t row_bytes = int64_t{hidden_} * SizeOf(rows.dtype);
  threads_.ParallelFor(count, 32, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      std::memcpy(gathered_.view().RowBytes(i), rows.RowBytes(pair_row_[order_[begin + i]]), row_bytes);
    }
  });
}

// Two parallel loops over (expert, columns): gate, up and their product; then down and the scatter to pairs.
void GroupedExperts::RunWave(MatView out) {
  const int64_t groups = static_cast<int64_t>(groups_.size());
  const bool rounded = activation_.view().dtype != DType::kF32;
  const int64_t rows = (groups_.back().row + groups_.back().count + groups - 1) / groups;  // of a group, on average
  const int64_t inner = LinearGrain(rows, groups_[0].weights->gate, threads_.threads());
  const int64_t inner_tasks = (intermediate_ + inner - 1) / inner;
  const int64_t inner_work = 2 * rows * inner * hidden_;
  const int64_t inner_grain = TaskGrain(groups * inner_tasks, inner_work, threads_.threads());
  threads_.ParallelFor(groups * inner_tasks, inner_grain, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const Group& group = groups_[task / inner_tasks];
      const int64_t begin = task % inner_tasks * inner;
      const int64_t count = std::min<int64_t>(inner, intermediate_ - begin);
      const ConstMatView x = gathered_.view().Rows(group.row, group.count);
      const MatView gate = gate_.view().Rows(group.row, group.count);
      const MatView up = up_.view().Rows(group.row, group.count);
      const MatView activation = activation_.view().Rows(group.row, group.count).Cols(begin, count);
      kernels_.linear(x, group.weights->gate, begin, begin + count, gate);
      kernels_.linear(x, group.weights->up, begin, begin + count, up);
      const MatView product = rounded ? gate.Cols(begin, count) : activation;
      kernels_.silu_mul(gate.Cols(begin, count), up.Cols(begin, count), product);
      if (rounded) kernels_.convert(product, activation);
    }
  });
  const int64_t outer = LinearGrain(rows, groups_[0].weights->down, threads_.threads());
  const int64_t outer_tasks = (hidden_ + outer - 1) / outer;
  const int64_t outer_work = rows * outer * intermediate_;
  const int64_t outer_grain = TaskGrain(groups * outer_tasks, outer_work, threads_.threads());
  threads_.ParallelFor(groups * outer_tasks, outer_grain, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const Group& group = groups_[task / outer_tasks];
      const int64_t begin = task % outer_tasks * outer;
      const int64_t count = std::min<int64_t>(outer, hidden_ - begin);
      const MatView down = down_.view().Rows(group.row, group.count);
      kernels_.linear(activation_.view().Rows(group.row, group.count), group.weights->down, begin, begin + count, down);
      for (int64_t i = 0; i < group.count; ++i) {
        kernels_.convert(down.Rows(i, 1).Cols(begin, count), out.Rows(order_[group.begin + i], 1).Cols(begin, count));
      }
    }
  });
}

}  // namespace conclave
