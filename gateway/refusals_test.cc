// What clients of the gRPC front are told when they are refused, in the words that standard clients decode.
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/gateway_fixture_for_test.h"
#include "gateway/refusal.h"
#include "gateway/rich_error.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "moe/daemon/server_stream.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// The detail of one type; empty where there is none.
template <typename Detail>
Detail DetailOf(const grpc::Status& status) {
  google::rpc::Status rich;
  EXPECT_TRUE(rich.ParseFromString(status.error_details()));
  EXPECT_EQ(rich.code(), status.error_details().empty() ? 0 : status.error_code());
  Detail detail;
  for (const auto& any : rich.details()) any.UnpackTo(&detail);
  return detail;
}

TEST_F(GatewayTest, ABadFieldIsNamedInTheDetails) {
  v1::GenerateRequest request = Text("x");
  request.set_n(1'000'000);
  const Outcome outcome = Generate(request);
  const auto details = DetailOf<google::rpc::BadRequest>(outcome.status);
  ASSERT_EQ(details.field_violations_size(), 1);
  EXPECT_EQ(details.field_violations(0).field(), "n");
  EXPECT_THAT(details.field_violations(0).description(), StartsWith("is 1000000"));
}

TEST(WithGrpcDetails, SaysWhichLimitAndWhenToTryAgain) {
  const grpc::Status status = ToGrpcStatus(
      WithGrpcDetails(LimitReached(kLimitTokensPerMinute, "tenant a has used its tokens", absl::Milliseconds(1500))));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status).violations(0).subject(), "tokens_per_minute");
  EXPECT_EQ(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 1);
  EXPECT_EQ(DetailOf<google::rpc::RetryInfo>(status).retry_delay().nanos(), 500'000'000);
  EXPECT_EQ(ToGrpcStatus(WithGrpcDetails(absl::InternalError("x"))).error_details(), "");
}

TEST_F(GatewayTest, EveryMethodAsksForTheKeyAndGoesOnAsItsTenant) {
  const auto codes = [this] {
    std::map<std::string, grpc::StatusCode> codes;
    const auto call = [&codes](const std::string& name, auto run) {
      grpc::ClientContext context;
      context.AddMetadata("authorization", "Bearer shown");
      codes[name] = run(&context).error_code();
    };
    v1::ChatRequest chat;
    chat.add_messages()->set_role("user");
    v1::TokenizeRequest tokenize;
    tokenize.set_text("x");
    const auto drain = [](auto stream) {
      for (v1::GenerateResponse message; stream->Read(&message);) continue;
      return stream->Finish();
    };
    call("Generate", [&](auto* context) { return drain(stub_->Generate(context, Text("x"))); });
    call("Chat", [&](auto* context) { return drain(stub_->Chat(context, chat)); });
    call("Tokenize", [&](auto* context) {
      v1::TokenizeResponse response;
      return stub_->Tokenize(context, tokenize, &response);
    });
    call("Detokenize", [&](auto* context) {
      v1::DetokenizeResponse response;
      return stub_->Detokenize(context, {}, &response);
    });
    call("ListModels", [&](auto* context) {
      v1::ListModelsResponse response;
      return stub_->ListModels(context, {}, &response);
    });
    return codes;
  };
  authenticator_.tenant = nullptr;
  for (const auto& [method, code] : codes()) EXPECT_EQ(code, grpc::StatusCode::UNAUTHENTICATED) << method;
  EXPECT_TRUE(router_.requests().empty());
  authenticator_.tenant = std::make_shared<const Tenant>(Tenant{"one", 0, 0, 0, 5, {}, "salt"});
  for (const auto& [method, code] : codes()) EXPECT_EQ(code, grpc::StatusCode::OK) << method;
  EXPECT_EQ(authenticator_.authorization, "Bearer shown");
  const auto sent = router_.requests();
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(sent[0].priority(), 5) << "the tenant's";
  EXPECT_EQ(sent[0].cache_salt(), "salt");
}

TEST_F(GatewayTest, ATenantOverItsLimitIsToldWhichAndWhenAndTheRouterIsSpared) {
  authenticator_.tenant = std::make_shared<const Tenant>(Tenant{"small", 0, 6, 0, 0, {}, ""});
  EXPECT_TRUE(Generate(Text("xyz")).status.ok());  // 3 and 3 more
  const grpc::Status status = Generate(Text("xyz")).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("tenant small may use 6 tokens a minute"));
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status).violations(0).subject(), "tokens_per_minute");
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 10);
  EXPECT_EQ(router_.requests().size(), 1u);
}

TEST_F(GatewayTest, ARunningAnswerTakesItsTenantsPlaceUntilItEnds) {
  authenticator_.tenant = std::make_shared<const Tenant>(Tenant{"narrow", 0, 0, 1, 0, {}, ""});
  router_.Answer([](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'a'}));
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::CANCELLED;
  });
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Text("x"));
  v1::GenerateResponse message;
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(Generate(Text("x")).status).violations(0).subject(),
            "requests_running");
  context.TryCancel();
  stream->Finish();
  ASSERT_TRUE(MetricsCome("conclave_gateway_requests_running 0"));
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'a'}, "length"));
    return grpc::Status::OK;
  });
  EXPECT_TRUE(Generate(Text("x")).status.ok());
}

TEST_F(GatewayTest, ATenantMayUseItsModelsOnly) {
  authenticator_.tenant = std::make_shared<const Tenant>(Tenant{"other", 0, 0, 0, 0, {"large"}, ""});
  const grpc::Status status = Generate(Text("x")).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(status.error_message(), StartsWith("model: tenant other may not use 'tiny'"));
  v1::TokenizeRequest tokenize;
  tokenize.set_text("x");
  grpc::ClientContext first, second, third;
  v1::TokenizeResponse tokens;
  EXPECT_EQ(stub_->Tokenize(&first, tokenize, &tokens).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  v1::DetokenizeResponse text;
  EXPECT_EQ(stub_->Detokenize(&second, {}, &text).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  v1::ListModelsResponse models;
  EXPECT_TRUE(stub_->ListModels(&third, {}, &models).ok());
  EXPECT_EQ(models.models_size(), 0);
  authenticator_.tenant = std::make_shared<const Tenant>(Tenant{"other", 0, 0, 0, 0, {"large", "tiny"}, ""});
  grpc::ClientContext fourth;
  EXPECT_TRUE(stub_->ListModels(&fourth, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).id(), "tiny");
}

TEST_F(GatewayTest, WhereAllServicesAreFullARequestIsRefusedBeforeItsPromptIsRead) {
  router_.SetStatus([](v1::GetStatusResponse& status) {
    status.set_requests_running(2);
    status.set_requests_running_max(2);
  });
  ASSERT_TRUE(MetricsCome(absl::StrCat("conclave_gateway_router_load{router=\"", router_.address, "\"} 2")));
  // Too long a prompt, were it looked at.
  const grpc::Status status = Generate(Text(std::string(1000, 'x'))).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status).violations(0).subject(), "queue");
  EXPECT_GE(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 1);
  EXPECT_TRUE(router_.requests().empty());
  const auto lines = UsageLines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["limit"], "queue");
}

TEST_F(GatewayTest, MoreAnswersThanEverRunAtOnceAreNoMatterOfTryingAgain) {
  router_.SetStatus([](v1::GetStatusResponse& status) {
    status.set_requests_queued_max(3);
    status.set_requests_running_max(2);
  });
  v1::GenerateRequest request = Text("ab");
  request.set_n(6);
  // Until the services have said how many they take, nobody knows.
  Outcome refused = Generate(request);
  for (int i = 0; i < 500 && refused.status.ok(); ++i, absl::SleepFor(absl::Milliseconds(10))) {
    refused = Generate(request);
  }
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refused.status.error_message(), "n: the request asks for 6 answers at once; all attention services "
                                            "together take 5 (--max-running and --max-queued)");
  request.set_n(5);
  EXPECT_TRUE(Generate(request).status.ok());
}

TEST_F(GatewayTest, EveryRequestLeavesOneUsageRecord) {
  authenticator_.tenant = std::make_shared<const Tenant>(Tenant{"payer", 2, 0, 0, 0, {}, ""});
  v1::GenerateRequest request = Text("hello");
  request.set_request_id("first");
  request.set_n(2);
  EXPECT_TRUE(Generate(request).status.ok());
  request.set_request_id("second\n");
  EXPECT_FALSE(Generate(request).status.ok());
  request.set_request_id("third");
  EXPECT_TRUE(Generate(request).status.ok());
  request.set_request_id("fourth");
  EXPECT_FALSE(Generate(request).status.ok());
  const auto lines = UsageLines(4);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["request_id"], "first");
  EXPECT_EQ(lines[0]["tenant"], "payer");
  EXPECT_EQ(lines[0]["model"], "tiny");
  EXPECT_EQ(lines[0]["n"], 2);
  EXPECT_EQ(lines[0]["prompt_tokens"], 3);
  EXPECT_EQ(lines[0]["completion_tokens"], 6);
  EXPECT_EQ(lines[0]["finish_reasons"], nlohmann::json({"stop", "stop"}));
  EXPECT_EQ(lines[1]["request_id"], "refused");
  EXPECT_EQ(lines[1]["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(lines[1]["prompt_tokens"], 0);
  EXPECT_EQ(lines[3]["code"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(lines[3]["limit"], "requests_per_minute");
}

TEST_F(GatewayTest, APriorityAheadOfTheTenantsIsRefused) {
  v1::GenerateRequest request = Text("x");
  request.set_priority(-1);
  EXPECT_THAT(Generate(request).status.error_message(), StartsWith("priority: "));
  request.set_priority(3);
  EXPECT_TRUE(Generate(request).status.ok());
  EXPECT_EQ(router_.requests().back().priority(), 3);
}

}  // namespace
}  // namespace conclave
