#include "router_service/layer_ticket.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/memory/memory.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/kernels/accelerator/ops.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/tensor/finite_rows.h"

namespace conclave {
namespace {

constexpr int kNanByte = 0xff;  // of which F32 and BF16 make a NaN

}  // namespace

LayerTicket::LayerTicket(std::unique_ptr<Dispatch> first, int64_t pairs_max, int experts, int shards, int hidden,
                         DType row_dtype, RowFormat format)
    : loads(shards, experts),
      shards_(shards),
      hidden_(hidden),
      row_dtype_(row_dtype),
      format_(format),
      first_(std::move(first)),
      grudges_(shards) {
  rows_.reserve(pairs_max);
  covering_.reserve(pairs_max);
  open_.reserve(pairs_max);
}

LayerTicket::LayerTicket(int rows_max, int top_k, int experts, int shards, int hidden, DType row_dtype,
                         RowFormat format, const HostMemory& memory)
    : LayerTicket(std::make_unique<Dispatch>(int64_t{rows_max} * std::min(top_k, shards), int64_t{rows_max} * top_k,
                                             shards, hidden, row_dtype, format, memory),
                  int64_t{rows_max} * top_k, experts, shards, hidden, row_dtype, format) {
  host_nan_row_ = MatBuffer(row_dtype, 1, hidden);
  std::memset(host_nan_row_.view().data, kNanByte, host_nan_row_.bytes());
  nan_row_ = host_nan_row_.view().RowBytes(0);
}

absl::StatusOr<std::unique_ptr<LayerTicket>> LayerTicket::OnDevice(Accelerator& accelerator, int rows_max, int top_k,
                                                                   int experts, int shards, int hidden,
                                                                   DType row_dtype) {
  const int64_t pairs_max = int64_t{rows_max} * top_k, row_bytes = hidden * SizeOf(row_dtype);
  ASSIGN_OR_RETURN(auto first, Dispatch::OnDevice(accelerator, int64_t{rows_max} * std::min(top_k, shards), pairs_max,
                                                  shards, hidden, row_dtype));
  auto ticket = absl::WrapUnique(
      new LayerTicket(std::move(first), pairs_max, experts, shards, hidden, row_dtype, RowFormat::kCompute));
  ticket->accelerator_ = &accelerator;
  ASSIGN_OR_RETURN(ticket->combine_, RowGather::Create(accelerator, pairs_max));
  ASSIGN_OR_RETURN(ticket->device_nan_row_, AllocateDevicePiece(accelerator, row_bytes));
  const std::vector<std::byte> nan_row(static_cast<size_t>(row_bytes), std::byte{kNanByte});
  ASSIGN_OR_RETURN(const auto stream, accelerator.NewStream());
  stream->CopyIn(ticket->device_nan_row_.get(), nan_row.data(), row_bytes);
  RETURN_IF_ERROR(stream->Await());
  ticket->nan_row_ = static_cast<const std::byte*>(ticket->device_nan_row_.get());
  return ticket;
}

int64_t LayerTicket::DeviceBytes(int rows_max, int top_k, int shards, int hidden, DType row_dtype) {
  return (int64_t{rows_max} * (std::min(top_k, shards) + top_k) + 1) * hidden * SizeOf(row_dtype);
}

void LayerTicket::Begin(uint64_t new_id, LayerId of_layer, ConstMatView x, const Routing& routing, absl::Time until,
                        bool may_free) {
  CONCLAVE_CHECK(id == 0 && in_flight == 0) << "ticket " << id << " has " << in_flight << " calls in flight";
  id = new_id;
  layer = of_layer;
  x_ = x;
  experts_ = routing.experts;
  deadline = until;
  failure = last_error = absl::OkStatus();
  if (combine_ != nullptr) combine_->done().Wait().IgnoreError();  // what it read may go; a lost device reads nothing
  std::move(further_.begin(), further_.end(), std::back_inserter(kept_));
  further_.clear();
  if (accelerator_ == nullptr || may_free) kept_.clear();
  first_used_ = false;
  const size_t pairs = routing.experts.size();
  missing_ = static_cast<int>(pairs);
  rows_.assign(pairs, nullptr);
  covering_.assign(pairs, 0);
  open_.clear();
  for (int64_t row = 0; row < x.rows; ++row) {
    const bool finite = combine_ != nullptr ? routing.fault_layers[row] == kNoFault
                                            : FirstNonFiniteRow(x.Rows(row, 1), row_dtype_) < 0;
    AddPairs(static_cast<int32_t>(row), finite, routing);
  }
  open_sorted_ = true;
  loads.Clear();
  std::fill(grudges_.begin(), grudges_.end(), Grudge{});
}

// Of one row; ascending.
void LayerTicket::AddPairs(int32_t row, bool finite, const Routing& routing) {
  for (int32_t pair = row * routing.top_k; pair < (row + 1) * routing.top_k; ++pair) {
    if (finite) {
      open_.push_back({row, routing.experts[pair], pair, ShardId{0}});
    } else {
      rows_[pair] = nan_row_;
      --missing_;
    }
  }
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

// For what goes out again.
absl::StatusOr<std::unique_ptr<Dispatch>> LayerTicket::NewDispatch(int64_t pairs) {
  if (accelerator_ == nullptr) {
    return std::make_unique<Dispatch>(pairs, pairs, shards_, hidden_, row_dtype_, format_);
  }
  const auto kept = std::find_if(kept_.begin(), kept_.end(), [&](const auto& d) { return d->pairs_max() >= pairs; });
  if (kept == kept_.end()) return Dispatch::OnDevice(*accelerator_, pairs, pairs, shards_, hidden_, row_dtype_);
  std::unique_ptr<Dispatch> again = std::move(*kept);
  kept_.erase(kept);
  return again;
}

absl::StatusOr<Dispatch*> LayerTicket::Fill(absl::Span<const RoutedPair> batch, const Kernels& kernels) {
  Dispatch* dispatch = first_.get();
  if (std::exchange(first_used_, true)) {
    // Failures are rare, so that what goes out again may have memory of its own: the first's may still be in use.
    ASSIGN_OR_RETURN(auto further, NewDispatch(static_cast<int64_t>(batch.size())));
    further_.push_back(std::move(further));
    dispatch = further_.back().get();
  }
  dispatch->Fill(batch, x_, kernels);
  for (ShardMessage& message : dispatch->messages())
    message.call.rows_stay = dispatch == first_.get();  // further_ goes
  for (const RoutedPair& pair : batch) ++covering_[pair.out];
  return dispatch;
}

absl::StatusOr<Dispatch*> LayerTicket::Send(absl::Span<const RoutedPair> batch, const Kernels& kernels) {
  for (const RoutedPair& pair : batch) {
    CONCLAVE_CHECK(rows_[pair.out] == nullptr && covering_[pair.out] == 0) << "pair " << pair.out << " is not open";
  }
  return Fill(batch, kernels);
}

absl::StatusOr<Dispatch*> LayerTicket::SendAgain(absl::Span<const RoutedPair> batch, const Kernels& kernels) {
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
    if (rows_[pair.out] == nullptr && covering_[pair.out] == 0) PutBack(absl::MakeConstSpan(&pair, 1));
  }
}

void LayerTicket::PutBack(absl::Span<const RoutedPair> pairs) {
  open_.insert(open_.end(), pairs.begin(), pairs.end());
  open_sorted_ = false;
}

void LayerTicket::CopyTo(MatView out) const {
  CONCLAVE_CHECK(missing_ == 0) << missing_ << " rows are missing";
  CONCLAVE_CHECK(out.rows == static_cast<int64_t>(rows_.size()) && out.cols == hidden_ && out.dtype == row_dtype_)
      << out.rows << "x" << out.cols << " of " << Name(out.dtype) << " for " << rows_.size() << " pairs";
  const size_t row_bytes = static_cast<size_t>(hidden_ * SizeOf(row_dtype_));
  if (combine_ != nullptr) {
    std::copy(rows_.begin(), rows_.end(), combine_->Addresses().begin());
    return combine_->Queue(out.data, out.rows, static_cast<int64_t>(row_bytes));
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    CONCLAVE_CHECK(rows_[i] != nullptr) << "pair " << i;
    std::memcpy(out.RowBytes(static_cast<int64_t>(i)), rows_[i], row_bytes);
  }
}

}  // namespace conclave
