// What clients of the gRPC front are told when they are refused, in the words that standard clients decode.
#include <map>
#include <memory>
#include <string>

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

// Knows one key.
class OneKey final : public Authenticator {
 public:
  absl::StatusOr<std::shared_ptr<const Tenant>> Authenticate(absl::string_view authorization) const override {
    if (authorization == "Bearer good") return std::make_shared<const Tenant>(Tenant{"one", 0, 0, 0, 5, {}, "salt"});
    return absl::UnauthenticatedError("this key is nobody's");
  }
};

TEST(Front, EveryMethodAsksForTheKey) {
  FakeRouter router;
  const auto model = TinyServedModel();
  const auto metrics = Metrics::Create();
  const auto client = RouterClient::Create(router.address);
  Dispatcher dispatcher(*model, *client, *metrics);
  const OneKey authenticator;
  const auto service = InferenceGrpcService::Create();
  service->SetDispatcher(&dispatcher, &authenticator);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service->service());
  const auto server = builder.BuildAndStart();
  const auto stub = v1::InferenceService::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));

  const auto codes = [&stub](const std::string& authorization) {
    std::map<std::string, grpc::StatusCode> codes;
    const auto call = [&](const std::string& name, auto run) {
      grpc::ClientContext context;
      if (!authorization.empty()) context.AddMetadata("authorization", authorization);
      codes[name] = run(&context).error_code();
    };
    v1::GenerateRequest generate;
    generate.set_text("x");
    v1::ChatRequest chat;
    chat.add_messages()->set_role("user");
    v1::TokenizeRequest tokenize;
    tokenize.set_text("x");
    const auto drain = [](auto stream) {
      for (v1::GenerateResponse message; stream->Read(&message);) continue;
      return stream->Finish();
    };
    call("Generate", [&](auto* context) { return drain(stub->Generate(context, generate)); });
    call("Chat", [&](auto* context) { return drain(stub->Chat(context, chat)); });
    call("Tokenize", [&](auto* context) {
      v1::TokenizeResponse response;
      return stub->Tokenize(context, tokenize, &response);
    });
    call("Detokenize", [&](auto* context) {
      v1::DetokenizeResponse response;
      return stub->Detokenize(context, {}, &response);
    });
    call("ListModels", [&](auto* context) {
      v1::ListModelsResponse response;
      return stub->ListModels(context, {}, &response);
    });
    return codes;
  };
  for (const std::string authorization : {"", "Bearer bad", "good"}) {
    for (const auto& [method, code] : codes(authorization)) {
      EXPECT_EQ(code, grpc::StatusCode::UNAUTHENTICATED) << method << " with '" << authorization << "'";
    }
  }
  EXPECT_TRUE(router.requests().empty());
  for (const auto& [method, code] : codes("Bearer good")) EXPECT_EQ(code, grpc::StatusCode::OK) << method;
  const auto sent = router.requests();
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(sent[0].priority(), 5) << "the tenant's";
  EXPECT_EQ(sent[0].cache_salt(), "salt");
  server->Shutdown(std::chrono::system_clock::now());
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
