#include "router_service/layer_ticket.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "moe/base/check.h"
#include "moe/tensor/finite_rows.h"

namespace conclave {

LayerTicket::LayerTicket(int rows_max, int top_k, int experts, int shards, int hidden, DType row_dtype,
                         RowFormat format, const HostMemory& memory)
    : loads(shards, experts),
      shards_(shards),
      hidden_(hidden),
      row_dtype_(row_dtype),
      format_(format),
      nan_row_(row_dtype, 1, hidden),
      first_(std::make_unique<Dispatch>(int64_t{rows_max} * std::min(top_k, shards), int64_t{rows_max} * top_k, shards,
                                        hidden, row_dtype, format, memory)),
      grudges_(shards) {
  rows_.reserve(int64_t{rows_max} * top_k);
  covering_.reserve(int64_t{rows_max} * top_k);
  open_.reserve(int64_t{rows_max} * top_k);
  std::memset(nan_row_.view().data, 0xff, nan_row_.bytes());  // a NaN in F32 and BF16
}

void LayerTicket::Begin(uint64_t new_id, LayerId of_layer, ConstMatView x, const Routing& routing, absl::Time until) {
  CONCLAVE_CHECK(id == 0 && in_flight == 0) << "ticket " << id << " has " << in_flight << " calls in flight";
  id = new_id;
  layer = of_layer;
  x_ = x;
  experts_ = routing.experts;
  deadline = until;
  failure = last_error = absl::OkStatus();
  further_.clear();
  first_used_ = false;
  const size_t pairs = routing.experts.size();
  missing_ = static_cast<int>(pairs);
  rows_.assign(pairs, nullptr);
  covering_.assign(pairs, 0);
  open_.clear();
  bool finite = true;
  for (size_t i = 0; i < pairs; ++i) {
    const int32_t row = static_cast<int32_t>(i / routing.top_k);
    if (i % routing.top_k == 0) finite = FirstNonFiniteRow(x.Rows(row, 1), row_dtype_) < 0;
    if (finite) {
      open_.push_back({row, routing.experts[i], static_cast<int32_t>(i), ShardId{0}});
    } else {
      rows_[i] = nan_row_.view().RowBytes(0);
      --missing_;
    }
  }
  open_sorted_ = true;
  loads.Clear();
  std::fill(grudges_.begin(), grudges_.end(), Grudge{});
}

std::vector<RoutedPair>& LayerTicket::open() {
  if (!open_sorted_) {
    std::sort(open_.begin(), open_.end(), [](const RoutedPair& a, const RoutedPair& b) { return a.out < b.out; });
    open_sorted_ = true;
  }
  return open_;
}

int32_t LayerTicket::FirstMissing() const {
  return experts_[std::find(rows_.begin(), rows_.end(), nullptr) - rows_.begin()];
}

Dispatch& LayerTicket::Fill(absl::Span<const RoutedPair> batch, const Kernels& kernels) {
  Dispatch* dispatch = first_.get();
  if (std::exchange(first_used_, true)) {
    // Failures are rare, so that what goes out again may have memory of its own: the first's may still be in use.
    const int64_t count = static_cast<int64_t>(batch.size());
    further_.push_back(std::make_unique<Dispatch>(count, count, shards_, hidden_, row_dtype_, format_));
    dispatch = further_.back().get();
  }
  dispatch->Fill(batch, x_, kernels);
  for (const RoutedPair& pair : batch) ++covering_[pair.out];
  return *dispatch;
}

Dispatch& LayerTicket::Send(absl::Span<const RoutedPair> batch, const Kernels& kernels) {
  for (const RoutedPair& pair : batch) {
    CONCLAVE_CHECK(rows_[pair.out] == nullptr && covering_[pair.out] == 0) << "pair " << pair.out << " is not open";
  }
  return Fill(batch, kernels);
}

Dispatch& LayerTicket::SendAgain(absl::Span<const RoutedPair> batch, const Kernels& kernels) {
  return Fill(batch, kernels);
}

void LayerTicket::Land(const ShardMessage& message) {
  for (const RoutedPair& pair : message.pairs) {
    CONCLAVE_CHECK(covering_[pair.out] > 0) << "pair " << pair.out << " is not on its way";
    --covering_[pair.out];
  }
}

int LayerTicket::TakeReply(const ShardMessage& message) {
  Land(message);
  int taken = 0;
  for (size_t p = 0; p < message.pairs.size(); ++p) {
    const std::byte*& row = rows_[message.pairs[p].out];
    if (row != nullptr) continue;  // another holder was faster, with the same bits
    row = static_cast<const std::byte*>(message.reply.RowBytes(static_cast<int64_t>(p)));
    ++taken;
  }
  missing_ -= taken;
  return taken;
}

void LayerTicket::Reopen(const ShardMessage& message) {
  Land(message);
  for (const RoutedPair& pair : message.pairs) {
    if (rows_[pair.out] != nullptr || covering_[pair.out] > 0) continue;
    open_.push_back(pair);
    open_sorted_ = false;
  }
}

void LayerTicket::CopyTo(MatView out) const {
  CONCLAVE_CHECK(missing_ == 0) << missing_ << " rows are missing";
  CONCLAVE_CHECK(out.rows == static_cast<int64_t>(rows_.size()) && out.cols == hidden_ && out.dtype == row_dtype_)
      << out.rows << "x" << out.cols << " of " << Name(out.dtype) << " for " << rows_.size() << " pairs";
  const size_t row_bytes = static_cast<size_t>(hidden_ * SizeOf(row_dtype_));
  for (size_t i = 0; i < rows_.size(); ++i) {
    CONCLAVE_CHECK(rows_[i] != nullptr) << "pair " << i;
    std::memcpy(out.RowBytes(static_cast<int64_t>(i)), rows_[i], row_bytes);
  }
}

}  // namespace conclave
