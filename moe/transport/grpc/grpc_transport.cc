#include "moe/transport/grpc/grpc_transport.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>  // serialises protobuf messages to byte buffers

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "conclave/v1/expert.pb.h"
#include "moe/base/check.h"
#include "moe/base/ids.h"
#include "moe/base/log.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/call_table.h"
#include "moe/transport/grpc/expert_codec.h"
#include "moe/transport/grpc/message_memory.h"
#include "moe/transport/grpc/shard_stream.h"

namespace conclave {
namespace {

class GrpcTransport final : public Transport, public ShardStream::Listener {
 public:
  GrpcTransport(const std::vector<std::string>& addresses, const GrpcTransportOptions& options)
      : options_(options), takes_packed_(addresses.size()) {
    for (size_t i = 0; i < addresses.size(); ++i) {
      const ShardId shard{static_cast<int32_t>(i)};
      streams_.push_back(std::make_unique<ShardStream>(shard, addresses[i], options_, queue_, *this));
    }
  }

  ~GrpcTransport() override {
    ending_ = true;
    for (auto& stream : streams_) stream->Shutdown();
    const auto busy = [](const auto& stream) { return !stream->idle(); };
    void* tag = nullptr;
    bool ok = false;
    while (std::any_of(streams_.begin(), streams_.end(), busy) && queue_.Next(&tag, &ok)) {
      static_cast<ShardStream::Operation*>(tag)->Proceed(ok);
    }
    queue_.Shutdown();
    while (queue_.Next(&tag, &ok)) {
    }
  }

  int shards() const override { return static_cast<int>(streams_.size()); }
  const char* Way(ShardId) const override { return "grpc"; }

  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override {
    if (!table_.Add(shard, shards(), call, out, std::move(done))) return;
    const absl::Time now = absl::Now();
    grpc_slice bytes = grpc_empty_slice();
    const bool packed = call.format == RowFormat::kFp8 && takes_packed_[Value(shard)];
    EncodeExpertRequest(call, now, options_.checksum, packed, &request_, [&bytes](size_t count) {
      bytes = grpc_slice_malloc(count);
      return GRPC_SLICE_START_PTR(bytes);
    });
    const grpc::Slice slice(bytes, grpc::Slice::STEAL_REF);
    ShardStream& stream = *streams_[Value(shard)];
    if (!stream.Send(call.call_id, grpc::ByteBuffer(&slice, 1), now)) table_.End(call.call_id, stream.why());
  }

  void Cancel(uint64_t call_id) override {
    table_.End(call_id, absl::CancelledError("the caller took it back"));
    for (auto& stream : streams_) stream->Forget(call_id);
  }

  int Progress(absl::Duration wait) override {
    const absl::Time until = absl::Now() + std::min(wait, absl::Hours(1));
    int ran = 0;
    while (true) {
      const absl::Time now = absl::Now();
      const absl::Time due = ServeTimers(now);
      ran += table_.RunDone();
      // Once something has ended, only what is there already is looked at.
      const absl::Time wake = ran > 0 ? absl::UnixEpoch() : std::min({until, due, table_.EarliestDeadline()});
      void* tag = nullptr;
      bool ok = false;
      const auto got = queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(wake));
      if (got == grpc::CompletionQueue::GOT_EVENT) {
        static_cast<ShardStream::Operation*>(tag)->Proceed(ok);
      } else if (ran > 0 || absl::Now() >= until) {
        return ran + table_.RunDone();
      }
    }
  }

 private:
  // Opens streams and ends calls whose time has come; returns when the next stream is to be opened.
  absl::Time ServeTimers(absl::Time now) {
    absl::Time due = absl::InfiniteFuture();
    for (auto& stream : streams_) {
      stream->OpenIfDue(now);
      due = std::min(due, stream->due());
    }
    for (const CallTable::Expired& expired : table_.EndExpired(now)) {
      streams_[Value(expired.shard)]->OnExpired(expired.call_id);
    }
    return due;
  }

  bool OnMessage(ShardId shard, grpc::ByteBuffer& message) override {
    const grpc::Status parsed = grpc::SerializationTraits<v1::ExpertReply>::Deserialize(&message, &reply_);
    if (!parsed.ok()) return false;
    const CallTable::Pending* pending = table_.Find(reply_.call_id());
    // Late, or a duplicate, or from a shard that was not asked: nobody's.
    if (pending == nullptr || pending->shard != shard) return true;
    takes_packed_[Value(shard)] = reply_.takes_packed_rows();
    table_.End(reply_.call_id(), DecodeExpertReply(reply_, options_.checksum, pending->out));
    return true;
  }

  void OnDown(ShardId shard, const absl::Status& why) override {
    takes_packed_[Value(shard)] = false;  // another one may come back
    const int lost = table_.EndShard(shard, why);
    // A shard that stays away is reported once per lost call at most, not at each attempt.
    if (lost > 0 && !ending_) LogWarning(why.message());
  }

  const GrpcTransportOptions options_;
  grpc::CompletionQueue queue_;
  bool ending_ = false;
  CallTable table_;
  v1::ExpertRequest request_;  // without its rows; both are reused for their memory
  v1::ExpertReply reply_;
  std::vector<bool> takes_packed_;  // by shard, as its last reply said
  std::vector<std::unique_ptr<ShardStream>> streams_;
};

}  // namespace

std::unique_ptr<Transport> NewGrpcTransport(const std::vector<std::string>& addresses,
                                            const GrpcTransportOptions& options) {
  KeepMessageMemory();
  return std::make_unique<GrpcTransport>(addresses, options);
}

}  // namespace conclave
