#include "moe/transport/grpc/grpc_transport.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/base/test_port.h"
#include "moe/tensor/dtype.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/grpc/describe.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/transport_test_suite.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<GrpcExpertServer> MustStart(const std::string& address, ExpertHandler& handler) {
  // A port that was in use a moment ago may need a moment.
  for (int i = 0; i < 100; ++i) {
    auto server = GrpcExpertServer::Start(address, handler);
    if (server.ok()) return *std::move(server);
    absl::SleepFor(absl::Milliseconds(20));
  }
  ADD_FAILURE() << "cannot start a server on " << address;
  return nullptr;
}

class GrpcHarness final : public TransportHarness {
 public:
  explicit GrpcHarness(std::vector<ExpertHandler*> handlers) : handlers_(std::move(handlers)) {
    for (ExpertHandler* handler : handlers_) {
      addresses_.push_back(NewTestAddress());
      servers_.push_back(MustStart(addresses_.back(), *handler));
    }
    transport_ = NewGrpcTransport(addresses_, GrpcTransportOptions{});
  }
  Transport& transport() override { return *transport_; }
  void Kill(ShardId shard) override { servers_[Value(shard)].reset(); }
  void Revive(ShardId shard) override {
    servers_[Value(shard)] = MustStart(addresses_[Value(shard)], *handlers_[Value(shard)]);
  }

 private:
  std::vector<ExpertHandler*> handlers_;
  std::vector<std::unique_ptr<GrpcExpertServer>> servers_;
  std::vector<std::string> addresses_;
  std::unique_ptr<Transport> transport_;
};

std::unique_ptr<TransportHarness> NewGrpcHarness(std::vector<ExpertHandler*> handlers) {
  return std::make_unique<GrpcHarness>(std::move(handlers));
}

INSTANTIATE_TEST_SUITE_P(Grpc, TransportTest, testing::Values(HarnessFactory(&NewGrpcHarness)));

absl::Status OneCall(Transport& transport, uint64_t id) {
  TestCall call(id, DType::kF32, 2, 8, {{0, 1}});
  call.Send(transport, ShardId{0}, absl::Seconds(20));
  while (!call.done()) transport.Progress(absl::Seconds(1));
  EXPECT_TRUE(!call.status().ok() || call.OutIsRight());
  return call.status();
}

TEST(GrpcTransport, RefusesAShardThatServesAnotherModelOrProfile) {
  FakeExpertHandler handler("fake-0", 8, 4);
  const auto server = MustStart("127.0.0.1:0", handler);
  GrpcTransportOptions options;
  options.model_fingerprint = "fake-model";
  options.numeric_profile = "fake-profile";
  EXPECT_TRUE(OneCall(*NewGrpcTransport({server->address()}, options), 1).ok());
  options.model_fingerprint = "another";
  const absl::Status other_model = OneCall(*NewGrpcTransport({server->address()}, options), 2);
  EXPECT_EQ(other_model.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(other_model.message()), HasSubstr("serves the model fake-model"));
  options.model_fingerprint.clear();
  options.numeric_profile = "r9";
  EXPECT_THAT(std::string(OneCall(*NewGrpcTransport({server->address()}, options), 3).message()),
              HasSubstr("numeric profile fake-profile"));
}

TEST(GrpcTransport, FailsFastWhereNobodyListens) {
  const std::string address = NewTestAddress();
  const auto transport = NewGrpcTransport({address}, GrpcTransportOptions{});
  const absl::Status status = OneCall(*transport, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << "before the call's deadline: " << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 0 at " + address));
}

std::unique_ptr<grpc::Server> Serve(grpc::Service& service, std::string* address) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  *address = absl::StrCat("127.0.0.1:", port);
  return server;
}

// Takes the messages of its first stream in and answers none; those of later ones it refuses.
class SwallowingShard final : public v1::ExpertService::Service {
 public:
  grpc::Status Exchange(grpc::ServerContext*,
                        grpc::ServerReaderWriter<v1::ExpertReply, v1::ExpertRequest>* stream) override {
    const bool swallows = streams_++ == 0;
    v1::ExpertRequest request;
    while (stream->Read(&request)) {
      if (swallows) continue;
      v1::ExpertReply reply;
      reply.set_call_id(request.call_id());
      reply.set_status_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
      stream->Write(reply);
    }
    return grpc::Status::OK;
  }
  int streams() const { return streams_; }

 private:
  std::atomic<int> streams_{0};
};

TEST(GrpcTransport, AStreamThatSwallowsItsMessagesIsOpenedAnew) {
  SwallowingShard shard;
  std::string address;
  const std::unique_ptr<grpc::Server> server = Serve(shard, &address);
  const auto transport = NewGrpcTransport({address}, GrpcTransportOptions{});
  absl::StatusCode code = absl::StatusCode::kOk;
  for (uint64_t id = 1; id < 200 && code != absl::StatusCode::kFailedPrecondition; ++id) {
    TestCall call(id, DType::kF32, 1, 8, {{0}});
    call.Send(*transport, ShardId{0}, id < 3 ? absl::Milliseconds(500) : absl::Seconds(20));
    while (!call.done()) transport->Progress(absl::Milliseconds(20));
    code = call.status().code();
    EXPECT_EQ(code == absl::StatusCode::kDeadlineExceeded, id < 3) << call.status();
    if (code == absl::StatusCode::kUnavailable) transport->Progress(absl::Milliseconds(10));
  }
  EXPECT_EQ(code, absl::StatusCode::kFailedPrecondition) << "answered on the second stream";
  EXPECT_EQ(shard.streams(), 2);
}

// Answers a call that nobody made, then each call, then the same call again with other rows.
class RepeatingShard final : public v1::ExpertService::Service {
 public:
  grpc::Status Exchange(grpc::ServerContext*,
                        grpc::ServerReaderWriter<v1::ExpertReply, v1::ExpertRequest>* stream) override {
    v1::ExpertRequest request;
    while (stream->Read(&request)) {
      v1::ExpertReply reply;
      *reply.mutable_rows() = request.rows();  // expert 0 of layer 0 changes nothing
      reply.set_call_id(request.call_id() + 1000);
      stream->Write(reply);
      reply.set_call_id(request.call_id());
      stream->Write(reply);
      (*reply.mutable_rows()->mutable_data())[0] ^= 0x40;
      stream->Write(reply);
    }
    return grpc::Status::OK;
  }
};

TEST(GrpcTransport, RepliesThatNobodyWaitsForAreDropped) {
  RepeatingShard shard;
  std::string address;
  const std::unique_ptr<grpc::Server> server = Serve(shard, &address);
  const auto transport = NewGrpcTransport({address}, GrpcTransportOptions{});
  std::vector<std::unique_ptr<TestCall>> calls;
  for (uint64_t id = 1; id < 20; ++id) {
    calls.push_back(std::make_unique<TestCall>(id, DType::kF32, 2, 8, std::vector<std::vector<int32_t>>{{0}}));
    calls.back()->Send(*transport, ShardId{0}, absl::Seconds(20));
    while (!calls.back()->done()) transport->Progress(absl::Milliseconds(20));
    EXPECT_TRUE(calls.back()->status().ok()) << calls.back()->status();
  }
  transport->Progress(absl::Milliseconds(20));
  for (const auto& call : calls) {
    EXPECT_TRUE(call->OutIsRight()) << "no reply came after it";
    EXPECT_EQ(call->times_done(), 1);
  }
}

TEST(GrpcExpertServer, NamesAnAddressItCannotListenOn) {
  FakeExpertHandler handler("fake-0", 8, 4);
  const auto first = MustStart("127.0.0.1:0", handler);
  const auto second = GrpcExpertServer::Start(first->address(), handler);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(first->address()));
  EXPECT_EQ(GrpcExpertServer::Start("nowhere", handler).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(DescribeShards, TellsWhatEveryShardHolds) {
  FakeExpertHandler a("a", 8, 4), b("b", 16, 3);
  const auto first = MustStart("127.0.0.1:0", a);
  const auto second = MustStart("127.0.0.1:0", b);
  const auto shards =
      DescribeShards({first->address(), second->address()}, "fake-model", absl::Now() + absl::Seconds(20));
  ASSERT_TRUE(shards.ok()) << shards.status();
  ASSERT_EQ(shards->size(), 2u);
  EXPECT_EQ((*shards)[0].name, "a");
  EXPECT_EQ((*shards)[1].hidden, 16);
  EXPECT_EQ((*shards)[1].numeric_profile, "fake-profile");
  EXPECT_EQ((*shards)[1].placement_epoch, 1u);
  ASSERT_EQ((*shards)[1].holdings.size(), 1u);
  EXPECT_EQ((*shards)[1].holdings[0].experts.size(), 3u);
}

TEST(DescribeShards, WaitsForAShardThatStillStarts) {
  FakeExpertHandler handler("late", 8, 4);
  const std::string address = NewTestAddress();
  std::unique_ptr<GrpcExpertServer> server;
  std::thread starter([&] {
    absl::SleepFor(absl::Milliseconds(300));
    server = MustStart(address, handler);
  });
  const auto shards = DescribeShards({address}, "", absl::Now() + absl::Seconds(30));
  EXPECT_TRUE(shards.ok()) << shards.status();
  starter.join();
}

TEST(DescribeShards, NamesTheShardThatIsMissingOrServesAnotherModel) {
  FakeExpertHandler handler("a", 8, 4);
  const std::string address = NewTestAddress();
  auto server = MustStart(address, handler);
  const auto other = DescribeShards({address}, "another", absl::Now() + absl::Seconds(20));
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("expert shard 0 at " + address));
  server.reset();
  const auto missing = DescribeShards({address}, "", absl::Now() + absl::Milliseconds(300));
  EXPECT_FALSE(missing.ok());
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr(address));
}

}  // namespace
}  // namespace conclave
