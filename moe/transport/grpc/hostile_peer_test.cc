// Bytes that no honest router sends, to a gRPC server that runs: each is refused, counted and logged with the peer's
// name, the next good call succeeds, and who goes on is in quarantine.
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>  // serialises protobuf messages
#include <grpcpp/impl/codegen/sync_stream.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "conclave/v1/expert.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/metrics/metrics.h"
#include "moe/tensor/dtype.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/grpc/expert_codec.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/grpc/grpc_transport.h"
#include "moe/transport/peer_gate.h"
#include "moe/transport/transport.h"
#include "moe/transport/transport_test_suite.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr int kHidden = 4, kExperts = 8;

v1::ExpertRequest GoodRequest(uint64_t call_id, float value = 2) {
  const float row[kHidden] = {value, value, value, value};
  v1::ExpertRequest request;
  request.set_call_id(call_id);
  request.mutable_rows()->set_dtype(v1::DTYPE_F32);
  request.mutable_rows()->add_shape(1);
  request.mutable_rows()->add_shape(kHidden);
  request.mutable_rows()->set_data(std::string(reinterpret_cast<const char*>(row), sizeof(row)));
  request.add_experts_per_row(1);
  request.add_experts(3);
  return request;
}

// A stream that sends any bytes as its messages.
class RawStream {
 public:
  RawStream(const std::string& address, const std::string& name, const std::string& model = "",
            const std::string& profile = "") {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetMaxSendMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    context_.AddMetadata(kPeerNameKey, name);
    if (!model.empty()) context_.AddMetadata(kModelFingerprintKey, model);
    if (!profile.empty()) context_.AddMetadata(kNumericProfileKey, profile);
    stream_.reset(grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, v1::ExpertReply>::Create(
        channel_.get(), method_, &context_));
  }
  ~RawStream() { context_.TryCancel(); }

  // The status in the reply, or that with which the stream ended.
  absl::Status Send(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    v1::ExpertReply reply;
    if (stream_->Write(grpc::ByteBuffer(&slice, 1)) && stream_->Read(&reply)) {
      return absl::Status(static_cast<absl::StatusCode>(reply.status_code()), reply.status_message());
    }
    ended_ = true;
    const grpc::Status end = stream_->Finish();
    return absl::Status(static_cast<absl::StatusCode>(end.error_code()), end.error_message());
  }
  absl::Status Send(const v1::ExpertRequest& request) { return Send(request.SerializeAsString()); }
  bool ended() const { return ended_; }

 private:
  const grpc::internal::RpcMethod method_{"/conclave.v1.ExpertService/Exchange",
                                          grpc::internal::RpcMethod::BIDI_STREAMING};
  std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, v1::ExpertReply>> stream_;
  bool ended_ = false;
};

class HostilePeerTest : public testing::Test {
 protected:
  HostilePeerTest() {
    auto server = GrpcExpertServer::Start("127.0.0.1:0", handler_, nullptr, &gate_);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::string Refused(const std::string& reason, int count) const {
    return absl::StrCat("conclave_expert_refused_total{reason=\"", reason, "\",transport=\"grpc\"} ", count);
  }
  void AGoodCallSucceeds(const std::string& name) {
    RawStream stream(server_->address(), name);
    EXPECT_TRUE(stream.Send(GoodRequest(1)).ok()) << name;
  }

  FakeClock clock_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  PeerGate gate_{&clock_, metrics_.get()};
  FakeExpertHandler handler_{"fake-0", kHidden, kExperts};
  std::unique_ptr<GrpcExpertServer> server_;
};

TEST_F(HostilePeerTest, EachOffenceIsRefusedCountedAndLoggedAndTheNextGoodCallSucceeds) {
  struct Case {
    std::string what, bytes, reason;
    absl::StatusCode code;
    std::string says;
  };
  std::vector<Case> cases;
  const auto add = [&](std::string what, std::string reason, absl::StatusCode code, std::string says,
                       void (*spoil)(v1::ExpertRequest&)) {
    v1::ExpertRequest request = GoodRequest(2);
    spoil(request);
    cases.push_back({std::move(what), request.SerializeAsString(), std::move(reason), code, std::move(says)});
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  const std::string good = GoodRequest(2).SerializeAsString();
  cases.push_back({"truncated", good.substr(0, good.size() - 1), "message", invalid, "no ExpertRequest"});
  cases.push_back({"noise", "\xff\xff\xff\xff not a message", "message", invalid, "no ExpertRequest"});
  add("replayed", "message", invalid, "it came before", [](v1::ExpertRequest& r) { r.set_call_id(1); });
  add("of call id 0", "message", invalid, "it came before", [](v1::ExpertRequest& r) { r.set_call_id(0); });
  add("oversized", "call", invalid, "rows.shape",
      [](v1::ExpertRequest& r) { r.mutable_rows()->set_shape(0, int64_t{1} << 40); });
  add("of a negative size", "call", invalid, "rows.shape",
      [](v1::ExpertRequest& r) { r.mutable_rows()->set_shape(0, -1); });
  add("shorter than it says", "call", invalid, "rows.data",
      [](v1::ExpertRequest& r) { r.mutable_rows()->mutable_data()->pop_back(); });
  add("of another width", "call", invalid, "rows.shape[1]", [](v1::ExpertRequest& r) {
    r.mutable_rows()->set_shape(1, kHidden + 1);
    r.mutable_rows()->mutable_data()->resize(sizeof(float) * (kHidden + 1));
  });
  add("of a dtype that is none", "call", invalid, "rows.dtype",
      [](v1::ExpertRequest& r) { r.mutable_rows()->set_dtype(static_cast<v1::DType>(99)); });
  add("for expert -1", "call", invalid, "experts[0]", [](v1::ExpertRequest& r) { r.set_experts(0, -1); });
  add("for expert 2^31-1", "call", invalid, "experts[0]",
      [](v1::ExpertRequest& r) { r.set_experts(0, std::numeric_limits<int32_t>::max()); });
  add("for layer -5", "call", invalid, "layer", [](v1::ExpertRequest& r) { r.set_layer(-5); });
  add("with more experts than ids", "call", invalid, "experts_per_row",
      [](v1::ExpertRequest& r) { r.set_experts_per_row(0, 4000000000u); });
  add("of rows that are not numbers", "call", invalid, "not finite", [](v1::ExpertRequest& r) {
    *r.mutable_rows() = GoodRequest(2, std::numeric_limits<float>::quiet_NaN()).rows();
  });
  add("with a wrong checksum", "checksum", absl::StatusCode::kDataLoss, "damaged",
      [](v1::ExpertRequest& r) { r.set_checksum(1); });

  std::map<std::string, int> counts;
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.what);
    clock_.Advance(absl::Seconds(1));  // a few lines a second are logged
    const std::string name = absl::StrCat("router-", &bad - cases.data());
    RawStream stream(server_->address(), name);
    ASSERT_TRUE(stream.Send(GoodRequest(1)).ok());
    const int runs = handler_.runs();
    testing::internal::CaptureStderr();
    const absl::Status refused = stream.Send(bad.bytes);
    EXPECT_EQ(refused.code(), bad.code) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(bad.says));
    EXPECT_EQ(stream.ended(), bad.says == "no ExpertRequest");
    if (!stream.ended()) {
      EXPECT_TRUE(stream.Send(GoodRequest(3)).ok()) << "the stream goes on";
    }
    AGoodCallSucceeds(name);
    EXPECT_LE(handler_.runs(), runs + 3);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, HasSubstr(absl::StrCat("grpc: refused from ", name, " at 127.0.0.1 (", bad.reason, "): ")));
    EXPECT_THAT(log, HasSubstr(bad.says));
    EXPECT_THAT(metrics_->Text(), HasSubstr(Refused(bad.reason, ++counts[bad.reason])));
  }
}

TEST_F(HostilePeerTest, AMessageBeyondEveryLimitEndsItsStreamAlone) {
  RawStream stream(server_->address(), "router-a");
  EXPECT_EQ(stream.Send(std::string(size_t{kExpertMessageBytesMax} + 1, 'x')).code(),
            absl::StatusCode::kResourceExhausted);
  AGoodCallSucceeds("router-a");
}

TEST_F(HostilePeerTest, AnotherModelOrProfileIsRefusedInASentenceAndNotHeldAgainstThePeer) {
  for (int i = 1; i <= PeerGate::kOffencesMax + 1; ++i) {
    clock_.Advance(absl::Seconds(1));
    testing::internal::CaptureStderr();
    RawStream model(server_->address(), "router-a", "another-model");
    const absl::Status refused = model.Send(GoodRequest(1));
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("another-model"));
    RawStream profile(server_->address(), "router-a", "fake-model", "another-profile");
    EXPECT_EQ(profile.Send(GoodRequest(1)).code(), absl::StatusCode::kFailedPrecondition);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, HasSubstr("refused from router-a at 127.0.0.1 (mismatch): fake-0 serves the model"));
    EXPECT_THAT(log, HasSubstr("another-profile"));
    EXPECT_THAT(metrics_->Text(), HasSubstr(Refused("mismatch", 2 * i)));
  }
  EXPECT_EQ(handler_.runs(), 0);
  AGoodCallSucceeds("router-a");
}

TEST_F(HostilePeerTest, RepeatedOffencesEndAllStreamsOfThePeerAndRefuseNewOnesForAWhile) {
  RawStream bystander(server_->address(), "router-b"), other(server_->address(), "router-a"),
      stream(server_->address(), "router-a");
  ASSERT_TRUE(bystander.Send(GoodRequest(1)).ok());
  ASSERT_TRUE(other.Send(GoodRequest(1)).ok());
  v1::ExpertRequest bad = GoodRequest(1);
  bad.set_experts(0, -1);
  testing::internal::CaptureStderr();
  for (int i = 1; i <= PeerGate::kOffencesMax; ++i) {
    bad.set_call_id(i);
    EXPECT_EQ(stream.Send(bad).code(), absl::StatusCode::kInvalidArgument) << "each is answered";
    EXPECT_FALSE(stream.ended());
  }
  EXPECT_EQ(stream.Send(GoodRequest(9)).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(stream.ended());
  EXPECT_EQ(other.Send(GoodRequest(9)).code(), absl::StatusCode::kPermissionDenied) << "its other streams too";
  const absl::Status refused = RawStream(server_->address(), "router-a").Send(GoodRequest(1));
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("quarantine"));
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("grpc: router-a at 127.0.0.1 is in quarantine after repeated offences"));
  EXPECT_THAT(metrics_->Text(), HasSubstr("conclave_expert_quarantines_total 1"));
  EXPECT_THAT(metrics_->Text(), HasSubstr(Refused("connection", 1)));

  EXPECT_TRUE(bystander.Send(GoodRequest(2)).ok()) << "others are served on";
  AGoodCallSucceeds("router-c");
  clock_.Advance(PeerGate::kQuarantineMin);
  AGoodCallSucceeds("router-a");
}

TEST_F(HostilePeerTest, ARouterInQuarantineIsToldSoAndServedAfterwards) {
  GrpcTransportOptions options;
  options.name = "router-a";
  const std::unique_ptr<Transport> transport = NewGrpcTransport({server_->address()}, options);
  uint64_t call_id = 0;
  const auto call_with = [&](int32_t expert) {
    TestCall call(++call_id, DType::kF32, 1, kHidden, {{expert}});
    call.Send(*transport, ShardId{0}, absl::Seconds(20));
    while (!call.done()) transport->Progress(absl::Milliseconds(100));
    return call.status();
  };
  for (int i = 0; i < PeerGate::kOffencesMax; ++i) {
    gate_.Offend(Carrier::kUcx, Refusal::kMessage, Peer{"router-a", "127.0.0.1"}, "over another carrier");
  }
  absl::Status refused = call_with(1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("quarantine"));
  clock_.Advance(PeerGate::kQuarantineMin);
  for (int i = 0; i < 500 && !refused.ok(); ++i) {
    transport->Progress(absl::Milliseconds(20));
    refused = call_with(1);
  }
  EXPECT_TRUE(refused.ok()) << refused;
}

}  // namespace

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportTest);  // of the suite, whose TestCall is used here

}  // namespace conclave
