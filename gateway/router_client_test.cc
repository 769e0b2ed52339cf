#include "gateway/router_client.h"

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/control.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "moe/base/protocol_version.h"
#include "moe/transport/bench/delay_relay.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Sends two ids, then waits for its cancellation where the request's id says so.
class FakeRouter final : public v1::RouterService::Service {
 public:
  FakeRouter() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeRouter() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Decode(grpc::ServerContext* context, const v1::DecodeRequest* request,
                      grpc::ServerWriter<v1::DecodeResponse>* writer) override {
    v1::DecodeResponse response;
    response.add_ids(1);
    writer->Write(response);
    while (request->request_id() == "endless" && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    writer->Write(response);
    return grpc::Status::OK;
  }
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*, v1::GetStatusResponse* response) override {
    response->set_model_id("demo");
    response->set_protocol_version(protocol_version);
    return grpc::Status::OK;
  }

  std::string address;
  uint32_t protocol_version = kProtocolVersion;

 private:
  std::unique_ptr<grpc::Server> server_;
};

class Recorder final : public DecodeListener {
 public:
  void OnResponse(const v1::DecodeResponse& response) override {
    ids.insert(ids.end(), response.ids().begin(), response.ids().end());
    if (!first.HasBeenNotified()) first.Notify();
  }
  void OnEnd(const absl::Status& status) override {
    end = status;
    ended.Notify();
  }

  std::vector<int32_t> ids;
  absl::Status end;
  absl::Notification first, ended;
};

// On a busy machine the first attempts may take longer than they may.
void WaitUntilConnected(RouterClient& client) {
  for (int i = 0; i < 100 && absl::IsUnavailable(client.GetStatus(absl::Seconds(10)).status()); ++i) {
    absl::SleepFor(absl::Milliseconds(20));
  }
}

TEST(RouterClient, SaysThatSomethingElseAnswers) {
  v1::RouterService::Service knows_no_method;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&knows_no_method);
  const auto server = builder.BuildAndStart();
  const auto client = RouterClient::Create(absl::StrCat("127.0.0.1:", port));
  WaitUntilConnected(*client);
  const absl::Status status = client->GetStatus(absl::Seconds(10)).status();
  EXPECT_EQ(status, absl::FailedPreconditionError("is no attention service: something else answers there"));
}

TEST(RouterClient, ReadsAStreamToItsEnd) {
  FakeRouter router;
  const auto client = RouterClient::Create(router.address);
  WaitUntilConnected(*client);
  const auto recorder = std::make_shared<Recorder>();
  const auto call = client->Decode({}, absl::InfiniteFuture(), {}, recorder);
  recorder->ended.WaitForNotification();
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_THAT(recorder->ids, ElementsAre(1, 1));
  EXPECT_EQ(client->GetStatus(absl::Seconds(5))->model_id(), "demo");
}

TEST(RouterClient, AServiceTwoReleasesAwayIsRefusedByName) {
  FakeRouter router;
  router.protocol_version = kProtocolVersion + 1;
  const auto client = RouterClient::Create(router.address);
  WaitUntilConnected(*client);
  EXPECT_TRUE(client->GetStatus(absl::Seconds(10)).ok());
  router.protocol_version = kProtocolVersion + 2;
  const absl::Status refused = client->GetStatus(absl::Seconds(10)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(router.address));
}

TEST(RouterClient, ARouterMayTakeHalfASecondToAnswerAtAll) {
  FakeRouter router;
  const auto line = DelayRelay::Start(router.address, absl::Milliseconds(500));
  ASSERT_TRUE(line.ok()) << line.status();
  const auto client = RouterClient::Create((*line)->address());
  const auto status = client->GetStatus(absl::Seconds(20));
  EXPECT_TRUE(status.ok()) << status.status();
}

TEST(RouterClient, CancelAndDeadlineEndAnEndlessStream) {
  FakeRouter router;
  const auto client = RouterClient::Create(router.address);
  WaitUntilConnected(*client);
  v1::DecodeRequest request;
  request.set_request_id("endless");
  const auto cancelled = std::make_shared<Recorder>();
  const auto call = client->Decode(request, absl::InfiniteFuture(), {}, cancelled);
  cancelled->first.WaitForNotification();
  call->Cancel();
  cancelled->ended.WaitForNotification();
  EXPECT_EQ(cancelled->end.code(), absl::StatusCode::kCancelled);
  call->Cancel();

  const auto late = std::make_shared<Recorder>();
  const auto late_call = client->Decode(request, absl::Now() + absl::Milliseconds(100), {}, late);
  late->ended.WaitForNotification();
  EXPECT_EQ(late->end.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(RouterClient, NobodyThereIsUnavailableWithTheAddress) {
  const auto client = RouterClient::Create("127.0.0.1:1");
  const auto recorder = std::make_shared<Recorder>();
  const auto call = client->Decode({}, absl::InfiniteFuture(), {}, recorder);
  recorder->ended.WaitForNotification();
  EXPECT_EQ(recorder->end.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(recorder->end.message()), HasSubstr("127.0.0.1:1"));
  EXPECT_EQ(client->GetStatus(absl::Milliseconds(500)).status().code(), absl::StatusCode::kUnavailable);
}

// The last share of a channel must not go in one of its own callbacks, or gRPC frees a queue that is in use.
TEST(RouterClient, GoesOnlyAfterTheCallbacksOfItsLastStream) {
  FakeRouter router;
  for (int round = 0; round < 300; ++round) {
    auto client = RouterClient::Create(router.address);
    const auto recorder = std::make_shared<Recorder>();
    client->Decode({}, absl::InfiniteFuture(), {}, recorder);
    recorder->ended.WaitForNotification();
    client.reset();
  }
}

}  // namespace
}  // namespace conclave
