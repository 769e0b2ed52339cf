#include "router_service/remote_experts.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/model/numeric_profile.h"

namespace conclave {
namespace {

// A shard that is gone or late is not asked again for the same ticket; one damaged reply is forgiven.
constexpr int kStrikesMax = 2;

int StrikesOf(absl::StatusCode code) { return code == absl::StatusCode::kDataLoss ? 1 : kStrikesMax; }

// Whether another holder, or the same once more, may do better.
bool MayResend(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
      return true;
    default:
      return false;
  }
}

absl::Status CheckOptions(const ModelSpec& spec, const RemoteExpertsOptions& options) {
  if (options.rows_max < 1 || options.rows_max > limits::kCallRowsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows_max: ", options.rows_max, " is not in [1, ", limits::kCallRowsMax, "]"));
  }
  const int64_t reply_bytes = int64_t{options.rows_max} * spec.gate.top_k * spec.hidden * SizeOf(DType::kF32);
  if (reply_bytes > limits::kCallBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("rows_max: ", options.rows_max, " rows make replies of up to ",
                                                   reply_bytes, " bytes, at most ", limits::kCallBytesMax,
                                                   " are possible; lower the rows of one step"));
  }
  if (options.attempt_timeout <= absl::ZeroDuration() || options.timeout < options.attempt_timeout) {
    return absl::InvalidArgumentError("attempt_timeout: must be positive and no longer than timeout");
  }
  return absl::OkStatus();
}

absl::Status CheckShard(const ShardDescription& shard, const ShardDescription& expected,
                        const RemoteExpertsOptions& options) {
  const auto differs = [&](absl::string_view what, const auto& theirs, const auto& ours, absl::string_view remedy) {
    return absl::FailedPreconditionError(
        absl::StrCat("expert shard ", shard.name, " ", what, " ", theirs, ", this router ", ours, "; ", remedy));
  };
  if (shard.model_fingerprint != expected.model_fingerprint) {
    return differs("serves the model", shard.model_fingerprint, expected.model_fingerprint,
                   "start all with the same --model");
  }
  if (shard.hidden != expected.hidden) {
    return differs("has the hidden size", shard.hidden, expected.hidden, "start all with the same --model");
  }
  if (shard.row_dtype != expected.row_dtype) {
    return differs("takes rows of", Name(shard.row_dtype), Name(expected.row_dtype),
                   "start all with the same --compute");
  }
  if (shard.numeric_profile != expected.numeric_profile && !options.allow_mixed_numerics) {
    return differs("computes with the numeric profile", shard.numeric_profile, expected.numeric_profile,
                   "start all with the same --compute and --isa, or allow it with --allow-mixed-numerics");
  }
  if (shard.placement_epoch != expected.placement_epoch) {
    return differs("is at placement epoch", shard.placement_epoch, expected.placement_epoch,
                   "wait until all shards are at the same one");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteExperts>> RemoteExperts::Create(const ModelSpec& spec, const Kernels& kernels,
                                                                     Transport& transport,
                                                                     const std::vector<ShardDescription>& shards,
                                                                     const RemoteExpertsOptions& options) {
  RETURN_IF_ERROR(CheckOptions(spec, options));
  if (shards.empty() || static_cast<int>(shards.size()) != transport.shards()) {
    return absl::InvalidArgumentError(
        absl::StrCat("shards: ", shards.size(), " descriptions for ", transport.shards(), " shards"));
  }
  ShardDescription expected;
  expected.model_fingerprint = options.model_fingerprint;
  expected.numeric_profile = NumericProfile(kernels);
  expected.hidden = spec.hidden;
  expected.row_dtype = RowDType(kernels.compute);
  expected.placement_epoch = shards[0].placement_epoch;
  std::vector<ShardHoldings> holdings;
  std::vector<std::string> names;
  for (const ShardDescription& shard : shards) {
    RETURN_IF_ERROR(CheckShard(shard, expected, options));
    holdings.push_back({shard.name, shard.holdings});
    names.push_back(shard.name);
  }
  std::vector<LayerId> layers;
  for (int layer = 0; layer < spec.layers; ++layer) {
    if (spec.IsMoe(LayerId{layer})) layers.push_back(LayerId{layer});
  }
  ASSIGN_OR_RETURN(auto placement, Placement::Create(expected.placement_epoch, layers, spec.gate.experts, holdings));
  RETURN_IF_ERROR(placement->CheckComplete());
  return absl::WrapUnique(new RemoteExperts(spec, kernels, transport, std::move(placement), names, options));
}

RemoteExperts::RemoteExperts(const ModelSpec& spec, const Kernels& kernels, Transport& transport,
                             std::shared_ptr<const Placement> placement, const std::vector<std::string>& names,
                             const RemoteExpertsOptions& options)
    : kernels_(kernels),
      transport_(transport),
      placement_(std::move(placement)),
      options_(options),
      row_dtype_(RowDType(kernels.compute)),
      hidden_(spec.hidden),
      top_k_(spec.gate.top_k),
      health_(names, options.metrics) {
  if (options.metrics != nullptr) {
    resends_total_ = options.metrics->AddCounter("conclave_router_expert_resends_total",
                                                 "Calls whose rows were sent again after they failed.", {});
  }
  const int shards = placement_->shards();
  const int64_t pairs_max = int64_t{options.rows_max} * top_k_;
  for (Ticket& ticket : tickets_) {
    ticket.first = std::make_unique<Dispatch>(int64_t{options.rows_max} * std::min(top_k_, shards), pairs_max, shards,
                                              hidden_, row_dtype_);
    ticket.pairs.reserve(pairs_max);
    ticket.strikes.resize(shards);
    ticket.assigned.resize(shards);
  }
  flights_.reserve(size_t{kTicketsMax} * shards);
}

// The holder with the fewest strikes in this ticket, not avoided, then with the fewest pairs. Whom it picks changes
// no bit of the result.
bool RemoteExperts::PickHolder(Ticket& ticket, int32_t expert, ShardId* shard) const {
  const absl::Span<const ShardId> holders = placement_->Holders(ticket.layer, ExpertId{expert});
  const absl::Time now = holders.size() > 1 ? options_.clock->Now() : absl::InfinitePast();
  bool found = false;
  const auto cost = [&](ShardId holder) {
    return std::make_tuple(ticket.strikes[Value(holder)], health_.Avoided(holder, now), ticket.assigned[Value(holder)]);
  };
  for (const ShardId holder : holders) {
    if (ticket.strikes[Value(holder)] >= kStrikesMax) continue;
    if (!found || cost(holder) < cost(*shard)) *shard = holder;
    found = true;
  }
  if (found) ++ticket.assigned[Value(*shard)];
  return found;
}

absl::Status RemoteExperts::PlanTicket(Ticket& ticket, const Routing& routing) {
  std::fill(ticket.strikes.begin(), ticket.strikes.end(), 0);
  std::fill(ticket.assigned.begin(), ticket.assigned.end(), 0);
  ticket.pairs.clear();
  for (size_t i = 0; i < routing.experts.size(); ++i) {
    RoutedPair pair;
    pair.row = static_cast<int32_t>(i / routing.top_k);
    pair.expert = routing.experts[i];
    pair.out = static_cast<int32_t>(i);
    if (!PickHolder(ticket, pair.expert, &pair.shard)) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", Value(ticket.layer), " has no expert ", pair.expert));
    }
    ticket.pairs.push_back(pair);
  }
  return absl::OkStatus();
}

absl::StatusOr<ExpertTicket> RemoteExperts::Start(LayerId layer, ConstMatView x, const Routing& routing) {
  if (x.rows > options_.rows_max || routing.top_k > top_k_) {
    return absl::ResourceExhaustedError(absl::StrCat(x.rows, " rows of ", routing.top_k, " experts; the pool holds ",
                                                     options_.rows_max, " of ", top_k_));
  }
  CONCLAVE_CHECK(x.cols == hidden_ && x.dtype == DType::kF32) << Name(x.dtype) << " of " << x.cols;
  CONCLAVE_CHECK(static_cast<int64_t>(routing.experts.size()) == x.rows * routing.top_k) << routing.experts.size();
  auto ticket = std::find_if(tickets_.begin(), tickets_.end(), [](const Ticket& each) { return each.id == 0; });
  if (ticket == tickets_.end()) {
    return absl::ResourceExhaustedError(absl::StrCat(kTicketsMax, " tickets are in flight already"));
  }
  ticket->layer = layer;
  ticket->x = x;
  ticket->deadline = options_.clock->Now() + options_.timeout;
  ticket->resends.clear();
  ticket->failure = absl::OkStatus();
  RETURN_IF_ERROR(PlanTicket(*ticket, routing));
  ticket->id = ++last_ticket_;
  ticket->first->Fill(ticket->pairs, x, kernels_);
  Send(*ticket, *ticket->first);
  return ExpertTicket{ticket->id};
}

void RemoteExperts::Send(Ticket& ticket, Dispatch& dispatch) {
  const absl::Time now = options_.clock->Now();
  for (ShardMessage& message : dispatch.messages()) {
    auto flight = std::find_if(flights_.begin(), flights_.end(), [](const Flight& f) { return f.message == nullptr; });
    if (flight == flights_.end()) flight = flights_.emplace(flights_.end());
    *flight = Flight{&ticket, &message, now};
    message.call.call_id = ++last_call_;
    message.call.placement_epoch = placement_->epoch();
    message.call.layer = ticket.layer;
    message.call.deadline = std::min(ticket.deadline, now + options_.attempt_timeout);
    ++ticket.in_flight;
    const int index = static_cast<int>(flight - flights_.begin());
    transport_.Call(message.shard, message.call, message.reply,
                    [this, index](const absl::Status& status) { OnDone(index, status); });
  }
}

void RemoteExperts::OnDone(int flight_index, const absl::Status& status) {
  const Flight flight = flights_[flight_index];
  flights_[flight_index].message = nullptr;
  Ticket& ticket = *flight.ticket;
  ShardMessage& message = *flight.message;
  const absl::Time now = options_.clock->Now();
  health_.Record(message.shard, message.call.rows.rows, now - flight.sent, status, now);
  --ticket.in_flight;
  if (status.ok()) {
    message.answered = true;
  } else if (ticket.failure.ok() && MayResend(status.code())) {
    Resend(ticket, message, status);
  } else if (ticket.failure.ok()) {
    ticket.failure = absl::InternalError(absl::StrCat("shard ", Value(message.shard), " refused rows of layer ",
                                                      Value(ticket.layer), ": ", status.ToString()));
  }
}

void RemoteExperts::Resend(Ticket& ticket, const ShardMessage& failed, const absl::Status& why) {
  uint8_t& strikes = ticket.strikes[Value(failed.shard)];
  strikes = static_cast<uint8_t>(std::min(kStrikesMax, strikes + StrikesOf(why.code())));
  std::vector<RoutedPair> pairs(failed.pairs.begin(), failed.pairs.end());
  const bool late = options_.clock->Now() >= ticket.deadline;
  for (RoutedPair& pair : pairs) {
    if (!late && PickHolder(ticket, pair.expert, &pair.shard)) continue;
    ticket.failure = absl::UnavailableError(absl::StrCat("layer ", Value(ticket.layer), " expert ", pair.expert,
                                                         ": no shard answered", late ? " within the deadline" : "",
                                                         "; the last one said: ", why.ToString()));
    LogWarning(ticket.failure.message());
    return;
  }
  if (resends_total_ != nullptr) resends_total_->Add(1);
  const int64_t count = static_cast<int64_t>(pairs.size());
  // Failures are rare, so that a resend may have memory of its own: the first dispatch's may still be in use.
  ticket.resends.push_back(std::make_unique<Dispatch>(count, count, placement_->shards(), hidden_, row_dtype_));
  ticket.resends.back()->Fill(pairs, ticket.x, kernels_);
  Send(ticket, *ticket.resends.back());
}

absl::Status RemoteExperts::Finish(ExpertTicket id, MatView out) {
  const auto ticket =
      std::find_if(tickets_.begin(), tickets_.end(), [&](const Ticket& each) { return each.id == id.id; });
  CONCLAVE_CHECK(id.id != 0 && ticket != tickets_.end()) << "ticket " << id.id << " is not in flight";
  // Every call has a deadline, so that this ends.
  while (ticket->in_flight > 0) transport_.Progress(absl::Milliseconds(100));
  ticket->id = 0;
  RETURN_IF_ERROR(ticket->failure);
  ticket->first->Scatter(out);
  for (const auto& resend : ticket->resends) resend->Scatter(out);
  return absl::OkStatus();
}

}  // namespace conclave
