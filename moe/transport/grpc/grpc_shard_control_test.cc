#include "moe/transport/grpc/grpc_shard_control.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/base/test_port.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/grpc/expert_grpc_service.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// A shard that can be told what to answer to LoadExperts.
class LoadingHandler final : public ExpertHandler {
 public:
  ShardDescription Describe() const override { return fake_.Describe(); }
  absl::Status Run(const ExpertCall& call, MatView out) override { return fake_.Run(call, out); }
  absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts) override {
    asked.assign(experts.begin(), experts.end());
    if (full) return absl::ResourceExhaustedError("no room");
    ShardDescription description = fake_.Describe();
    description.placement_epoch = 9;
    return description;
  }
  std::vector<LayerHolding> asked;
  bool full = false;

 private:
  FakeExpertHandler fake_{"fake-0", 8, 4};
};

ShardNews WaitForNews(ShardControl& control) {
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (absl::Now() < end) {
    if (auto news = control.Next(); news.has_value()) return *std::move(news);
    absl::SleepFor(absl::Milliseconds(1));
  }
  ADD_FAILURE() << "no news";
  return {ShardId{0}, false, absl::UnknownError("no news")};
}

// What shard 0 says of itself, from a connection to it: on a busy machine an attempt may take longer than it may.
ShardNews Describe(ShardControl& control) {
  control.Describe(ShardId{0}, absl::Seconds(20));
  ShardNews news = WaitForNews(control);
  for (int i = 0; i < 20 && absl::StrContains(news.description.status().message(), "failed to connect"); ++i) {
    control.Describe(ShardId{0}, absl::Seconds(20));
    news = WaitForNews(control);
  }
  return news;
}

TEST(GrpcShardControl, AsksWhatAShardHoldsAndToHoldMore) {
  LoadingHandler handler;
  const auto server = GrpcExpertServer::Start("127.0.0.1:0", handler);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto control = NewGrpcShardControl({(*server)->address()}, "fake-model");
  EXPECT_FALSE(control->Next().has_value());
  ShardNews news = Describe(*control);
  ASSERT_TRUE(news.description.ok()) << news.description.status();
  EXPECT_EQ(news.description->name, "fake-0");
  EXPECT_FALSE(news.of_load);

  control->LoadExperts(ShardId{0}, {{LayerId{0}, {ExpertId{7}, ExpertId{9}}}}, absl::Seconds(20));
  news = WaitForNews(*control);
  ASSERT_TRUE(news.description.ok()) << news.description.status();
  EXPECT_TRUE(news.of_load);
  EXPECT_EQ(news.description->placement_epoch, 9u);
  ASSERT_EQ(handler.asked.size(), 1u);
  EXPECT_EQ(FormatExperts(handler.asked[0].experts), "7, 9");

  handler.full = true;
  control->LoadExperts(ShardId{0}, {{LayerId{0}, {ExpertId{7}}}}, absl::Seconds(20));
  EXPECT_EQ(WaitForNews(*control).description.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(GrpcShardControl, AShardOfAnotherModelIsNamed) {
  LoadingHandler handler;
  const auto server = GrpcExpertServer::Start("127.0.0.1:0", handler);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto control = NewGrpcShardControl({(*server)->address()}, "another");
  Describe(*control);
  for (const bool of_load : {false, true}) {
    if (of_load) {
      control->LoadExperts(ShardId{0}, {}, absl::Seconds(20));
    } else {
      control->Describe(ShardId{0}, absl::Seconds(20));
    }
    const absl::Status status = WaitForNews(*control).description.status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("the caller another"));
  }
}

TEST(GrpcShardControl, SaysThatSomethingElseAnswers) {
  v1::ExpertService::Service knows_no_method;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&knows_no_method);
  const auto server = builder.BuildAndStart();
  const auto control = NewGrpcShardControl({absl::StrCat("127.0.0.1:", port)}, "");
  const absl::Status status = Describe(*control).description.status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("no expert shard, but something else answers there"));
}

TEST(GrpcShardControl, AnswersForShardsThatAreGone) {
  LoadingHandler handler;
  auto server = GrpcExpertServer::Start(NewTestAddress(), handler);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto control = NewGrpcShardControl({(*server)->address()}, "");
  server->reset();
  control->Describe(ShardId{0}, absl::Seconds(2));
  const absl::Status status = WaitForNews(*control).description.status();
  EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) << status;
  control->Describe(ShardId{0}, absl::Seconds(20));  // open when the control goes
}

}  // namespace
}  // namespace conclave
