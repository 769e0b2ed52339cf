#include "router_service/dispatch.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/kernels/accelerator/pinned_memory.h"

namespace conclave {

Dispatch::Dispatch(MatView rows, MatView replies, int shards, RowFormat format)
    : format_(format),
      rows_(rows),
      replies_(replies),
      pairs_(replies.rows),
      experts_(replies.rows),
      begin_(shards + 1) {
  offsets_.reserve(rows.rows + shards);
  messages_.reserve(shards);
}

Dispatch::Dispatch(int64_t rows_max, int64_t pairs_max, int shards, int hidden, DType row_dtype,
                   RowFormat format, const HostMemory& memory)
    : Dispatch(MatView{nullptr, row_dtype, Device::kCpu, rows_max, hidden, hidden},
               MatView{nullptr, row_dtype, Device::kCpu, pairs_max, hidden, hidden}, shards, format) {
  host_rows_ = MatBuffer(row_dtype, rows_max, hidden, memory);
  host_replies_ = MatBuffer(row_dtype, pairs_max, hidden, memory);
  rows_ = host_rows_.view();
  replies_ = host_replies_.view();
}

absl::StatusOr<std::unique_ptr<Dispatch>> Dispatch::OnDevice(Accelerator& accelerator, int64_t rows_max,
                                                             int64_t pairs_max, int shards, int hidden,
                                                             DType row_dtype) {
  const int64_t row_bytes = hidden * SizeOf(row_dtype);
  ASSIGN_OR_RETURN(auto memory, AllocateDevicePiece(accelerator, (rows_max + pairs_max) * row_bytes));
  ASSIGN_OR_RETURN(auto gather, RowGather::Create(accelerator, rows_max));
  const MatView all{memory.get(), row_dtype, Device::kCuda, rows_max + pairs_max, hidden, hidden};
  auto dispatch = absl::WrapUnique(
      new Dispatch(all.Rows(0, rows_max), all.Rows(rows_max, pairs_max), shards, RowFormat::kCompute));
  dispatch->device_memory_ = std::move(memory);
  dispatch->gather_ = std::move(gather);
  return dispatch;
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

// Row `row` of x becomes row `place` of ours.
void Dispatch::TakeRow(ConstMatView x, int64_t row, int64_t place, const Kernels& kernels) {
  if (gather_ != nullptr) {
    addresses_[static_cast<size_t>(place)] = x.RowBytes(row);
  } else if (format_ == RowFormat::kFp8) {
    RoundToFp8(x.Rows(row, 1), rows_.Rows(place, 1));
  } else {
    kernels.convert(x.Rows(row, 1), rows_.Rows(place, 1));
  }
}

void Dispatch::Fill(absl::Span<const RoutedPair> pairs, ConstMatView x, const Kernels& kernels) {
  CONCLAVE_CHECK(pairs.size() <= pairs_.size()) << pairs.size() << " pairs, sized for " << pairs_.size();
  CONCLAVE_CHECK(x.device == rows_.device && (gather_ == nullptr || x.dtype == rows_.dtype)) << Name(x.dtype);
  if (gather_ != nullptr) addresses_ = gather_->Addresses();
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
      CONCLAVE_CHECK(rows_used < rows_.rows && offsets_.size() < offsets_.capacity()) << rows_used << " rows";
      TakeRow(x, pairs_[p].row, rows_used++, kernels);
      offsets_.push_back(static_cast<uint32_t>(p - begin));
    }
    offsets_.push_back(static_cast<uint32_t>(end - begin));
    ShardMessage message;
    message.shard = ShardId{static_cast<int32_t>(shard)};
    message.call.format = format_;
    if (gather_ != nullptr) message.call.ready = &gather_->done();
    message.call.rows = rows_.Rows(rows_begin, rows_used - rows_begin);
    // offsets_ never grows beyond its reserve, so that spans of it stay good.
    message.call.row_offsets = absl::MakeConstSpan(offsets_).subspan(offsets_begin);
    message.call.experts = absl::MakeConstSpan(experts_).subspan(begin, end - begin);
    message.pairs = absl::MakeConstSpan(pairs_).subspan(begin, end - begin);
    message.reply = replies_.Rows(begin, end - begin);
    messages_.push_back(message);
  }
  if (gather_ != nullptr) gather_->Queue(rows_.data, rows_used, x.cols * SizeOf(rows_.dtype));
}

}  // namespace conclave
