#include "router_service/dispatch.h"

#include <algorithm>

#include "moe/base/check.h"

namespace conclave {

Dispatch::Dispatch(int64_t rows_max, int64_t pairs_max, int shards, int hidden, DType row_dtype,
                   RowFormat format, const HostMemory& memory)
    : format_(format),
      rows_(row_dtype, rows_max, hidden, memory),
      replies_(row_dtype, pairs_max, hidden, memory),
      pairs_(pairs_max),
      experts_(pairs_max),
      begin_(shards + 1) {
  offsets_.reserve(rows_max + shards);
  messages_.reserve(shards);
}

void Dispatch::SortByShard(absl::Span<const RoutedPair> pairs) {
  std::fill(begin_.begin(), begin_.end(), 0);
  for (const RoutedPair& pair : pairs) ++begin_[Value(pair.shard) + 1];
  for (size_t shard = 1; shard < begin_.size(); ++shard) begin_[shard] += begin_[shard - 1];
  // Each begin_[shard] walks to the end of its run, which is where the next one began.
  for (const RoutedPair& pair : pairs) pairs_[begin_[Value(pair.shard)]++] = pair;
  std::rotate(begin_.begin(), begin_.end() - 1, begin_.end());
  begin_[0] = 0;
}

void Dispatch::Fill(absl::Span<const RoutedPair> pairs, ConstMatView x, const Kernels& kernels) {
  CONCLAVE_CHECK(pairs.size() <= pairs_.size()) << pairs.size() << " pairs, sized for " << pairs_.size();
  SortByShard(pairs);
  messages_.clear();
  offsets_.clear();
  int64_t rows_used = 0;
  for (size_t shard = 0; shard + 1 < begin_.size(); ++shard) {
    const int64_t begin = begin_[shard], end = begin_[shard + 1];
    if (begin == end) continue;
    const int64_t rows_begin = rows_used;
    const size_t offsets_begin = offsets_.size();
    for (int64_t p = begin; p < end; ++p) {
      experts_[p] = pairs_[p].expert;
      if (p > begin && pairs_[p].row == pairs_[p - 1].row) continue;
      CONCLAVE_CHECK(rows_used < rows_.view().rows && offsets_.size() < offsets_.capacity()) << rows_used << " rows";
      const MatView rounded = rows_.view().Rows(rows_used++, 1);
      if (format_ == RowFormat::kFp8) {
        RoundToFp8(x.Rows(pairs_[p].row, 1), rounded);
      } else {
        kernels.convert(x.Rows(pairs_[p].row, 1), rounded);
      }
      offsets_.push_back(static_cast<uint32_t>(p - begin));
    }
    offsets_.push_back(static_cast<uint32_t>(end - begin));
    ShardMessage message;
    message.shard = ShardId{static_cast<int32_t>(shard)};
    message.call.format = format_;
    message.call.rows = rows_.view().Rows(rows_begin, rows_used - rows_begin);
    // offsets_ never grows beyond its reserve, so that spans of it stay good.
    message.call.row_offsets = absl::MakeConstSpan(offsets_).subspan(offsets_begin);
    message.call.experts = absl::MakeConstSpan(experts_).subspan(begin, end - begin);
    message.pairs = absl::MakeConstSpan(pairs_).subspan(begin, end - begin);
    message.reply = replies_.view().Rows(begin, end - begin);
    messages_.push_back(message);
  }
}

}  // namespace conclave
