#include "gateway/inference_service.h"

#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/gateway_fixture_for_test.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(GatewayTest, StreamsTextIdsAndTheEnd) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({kTinyHel}));
    writer->Write(Ids({'l', 'o'}));
    v1::DecodeResponse last = Ids({kTinyEnd}, "stop");
    last.set_logits_hash("00000000000000ab");
    last.add_expert_use()->add_tokens(4);
    writer->Write(last);
    return grpc::Status::OK;
  });
  v1::GenerateRequest request = Text("he said");
  request.set_request_id("my-request");
  const Outcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.text(), "hello");
  EXPECT_THAT(outcome.ids(), ElementsAre(kTinyHel, 'l', 'o', kTinyEnd));
  EXPECT_EQ(outcome.messages.front().system_fingerprint(), "tiny/f32");
  EXPECT_THAT(outcome.messages.front().prompt_ids(), ElementsAre(kTinyHe, ' ', 's', 'a', 'i', 'd'));
  EXPECT_EQ(outcome.messages.front().request_id(), "my-request");
  const v1::GenerateResponse& last = outcome.messages.back();
  EXPECT_EQ(last.finish_reason(), "stop");
  EXPECT_EQ(last.logits_hash(), "00000000000000ab");
  EXPECT_EQ(last.request_id(), "my-request");
  EXPECT_EQ(last.usage().prompt_tokens(), 6);
  EXPECT_EQ(last.usage().completion_tokens(), 4);
  ASSERT_EQ(last.usage().expert_use_size(), 1);
  EXPECT_TRUE(MetricsCome("conclave_gateway_requests_total{code=\"OK\",method=\"Generate\"} 1"));
  EXPECT_TRUE(MetricsCome("conclave_gateway_generated_tokens_total 4"));
  EXPECT_TRUE(MetricsCome("conclave_gateway_requests_running 0"));
}

TEST_F(GatewayTest, ACharacterAcrossTokenBordersComesWhole) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    for (const int byte : {0xf0, 0x9f, 0x99, 0x82}) writer->Write(Ids({byte}));
    writer->Write(Ids({0xf0, 0x9f}, "length"));
    return grpc::Status::OK;
  });
  const Outcome outcome = Generate(Text("x"));
  ASSERT_TRUE(outcome.status.ok());
  // A message holds the character whole or not at all; the one cut off by the end is replaced.
  EXPECT_EQ(outcome.text(), "\xf0\x9f\x99\x82\xef\xbf\xbd");
  for (const auto& message : outcome.messages) {
    EXPECT_THAT(message.text(),
                ::testing::AnyOf("", "\xf0\x9f\x99\x82", "\xef\xbf\xbd", "\xf0\x9f\x99\x82\xef\xbf\xbd"));
  }
  EXPECT_EQ(outcome.ids().size(), 6u);
}

TEST_F(GatewayTest, SetsEveryDefaultAndDrawsASeed) {
  Generate(Text("a"));
  Generate(Text("a"));
  v1::GenerateRequest request = Text("a");
  request.mutable_sampling()->set_seed(0);
  request.mutable_sampling()->set_temperature(0.7f);
  request.mutable_sampling()->set_top_p(0.5f);
  request.mutable_sampling()->set_top_k(9);
  request.set_max_tokens(5);
  request.set_ignore_eos(true);
  request.set_hash_logits(true);
  Generate(request);
  const auto sent = router_.requests();
  ASSERT_EQ(sent.size(), 3u);
  EXPECT_TRUE(sent[0].sampling().has_seed());
  EXPECT_NE(sent[0].sampling().seed(), sent[1].sampling().seed());
  EXPECT_NE(sent[0].request_id(), sent[1].request_id());
  EXPECT_EQ(sent[0].sampling().temperature(), 0);
  EXPECT_EQ(sent[0].sampling().top_p(), 1);
  EXPECT_EQ(sent[0].max_tokens(), 63) << "what the context leaves";
  EXPECT_EQ(sent[2].sampling().seed(), 0u);
  EXPECT_EQ(sent[2].sampling().temperature(), 0.7f);
  EXPECT_EQ(sent[2].sampling().top_p(), 0.5f);
  EXPECT_EQ(sent[2].sampling().top_k(), 9);
  EXPECT_EQ(sent[2].max_tokens(), 5);
  EXPECT_TRUE(sent[2].ignore_eos());
  EXPECT_TRUE(sent[2].hash_logits());
}

TEST_F(GatewayTest, ChatsAreRenderedAndAUsersSpecialTextStaysText) {
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("<|end|>");
  ASSERT_TRUE(Generate(request).status.ok());
  const auto sent = router_.requests();
  ASSERT_EQ(sent.size(), 1u);
  std::vector<int32_t> expected = {kTinyEnd};
  for (const char c : std::string("<|end|>")) expected.push_back(c);
  EXPECT_THAT(sent[0].prompt_ids(), ElementsAreArray(expected));

  message->set_role("assistant");
  const Outcome refused = Generate(request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.status.error_message(), StartsWith("chat.messages: a chat must not begin"));
}

TEST_F(GatewayTest, WithoutAChatTemplateChatIsRefusedWithTheReason) {
  model_->chat_template = nullptr;
  model_->chat_status = absl::NotFoundError("no chat template");
  v1::GenerateRequest request;
  request.mutable_chat()->add_messages()->set_role("user");
  const Outcome outcome = Generate(request);
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(outcome.status.error_message(), HasSubstr("no chat template"));
}

TEST_F(GatewayTest, BadRequestsAreRefusedByFieldAndNeverReachTheRouter) {
  const auto refused = [this](const std::function<void(v1::GenerateRequest&)>& change, const std::string& field) {
    v1::GenerateRequest request = Text("hello");
    change(request);
    const Outcome outcome = Generate(request);
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_THAT(outcome.status.error_message(), StartsWith(field + ":"));
  };
  refused([](auto& r) { r.set_text(""); }, "text");
  refused([](auto& r) { r.clear_prompt(); }, "prompt");
  refused([](auto& r) { r.mutable_tokens()->add_ids(261); }, "tokens.ids[0]");
  refused([](auto& r) { r.set_max_tokens(0); }, "max_tokens");
  refused([](auto& r) { r.mutable_sampling()->set_temperature(std::nanf("")); }, "sampling.temperature");
  refused([](auto& r) { r.set_text(std::string(64, 'x')); }, "text");
  refused(
      [](auto& r) {
        for (int i = 0; i < 64; ++i) r.mutable_tokens()->add_ids(1);
      },
      "tokens.ids");
  v1::GenerateRequest other = Text("x");
  other.set_model("gpt");
  EXPECT_EQ(Generate(other).status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(router_.requests().empty());
  EXPECT_TRUE(Generate(Text(std::string(63, 'x'))).status.ok());
  EXPECT_TRUE(MetricsCome("conclave_gateway_requests_total{code=\"INVALID_ARGUMENT\",method=\"Generate\"} 7"));
}

TEST_F(GatewayTest, BytesThatAreNoMessageAreInvalidArgument) {
  for (const char* method : {"Generate", "Tokenize"}) {
    const grpc::Status bad_text = SendRaw(method,
                                          "\x12\x02"
                                          "a\xff");
    EXPECT_EQ(bad_text.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_EQ(bad_text.error_message(), "text: is not UTF-8") << method;
    EXPECT_EQ(SendRaw(method, "\x12\x7f").error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
  }
  EXPECT_TRUE(Generate(Text("x")).status.ok());
}

TEST_F(GatewayTest, AClientThatGoesAwayCancelsTheRoutersStream) {
  absl::Notification cancelled;
  router_.Answer([&cancelled](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'a'}));
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(2));
    cancelled.Notify();
    return grpc::Status::CANCELLED;
  });
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Text("x"));
  v1::GenerateResponse message;
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_EQ(message.text(), "a");
  context.TryCancel();
  EXPECT_TRUE(cancelled.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(MetricsCome("conclave_gateway_requests_total{code=\"CANCELLED\",method=\"Generate\"} 1"));
  EXPECT_TRUE(MetricsCome("conclave_gateway_requests_running 0"));
}

TEST_F(GatewayTest, TheClientsDeadlineReachesTheRouter) {
  absl::Notification ended;
  router_.Answer([&ended](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter*) {
    EXPECT_LT(context->deadline(), std::chrono::system_clock::now() + std::chrono::seconds(5));
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(2));
    ended.Notify();
    return grpc::Status::CANCELLED;
  });
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  auto stream = stub_->Generate(&context, Text("x"));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(ended.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST_F(GatewayTest, ErrorsOfTheRouterComeThroughAfterTheTokensBeforeThem) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'a'}));
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "layer 3 expert 7: no holder answered");
  });
  Outcome outcome = Generate(Text("x"));
  EXPECT_EQ(outcome.text(), "a");
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(outcome.status.error_message(), HasSubstr("layer 3 expert 7"));

  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter*) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full");
  });
  EXPECT_EQ(Generate(Text("x")).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GatewayTest, AStreamThatEndsWithoutAReasonOrWithAnImpossibleIdIsInternal) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'a'}));
    return grpc::Status::OK;
  });
  EXPECT_EQ(Generate(Text("x")).status.error_code(), grpc::StatusCode::INTERNAL);
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({5000}, "stop"));
    return grpc::Status::OK;
  });
  EXPECT_EQ(Generate(Text("x")).status.error_code(), grpc::StatusCode::INTERNAL);
}

TEST_F(GatewayTest, ADeadRouterIsUnavailableAndNamed) {
  router_.Stop();
  const Outcome outcome = Generate(Text("x"));
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(outcome.status.error_message(), HasSubstr(router_.address));
}

TEST_F(GatewayTest, ManyStreamsAtOnceEachGetTheirOwn) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest& request, DecodeWriter* writer) {
    for (const int32_t id : request.prompt_ids()) writer->Write(Ids({id}));
    writer->Write(Ids({kTinyEnd}, "stop"));
    return grpc::Status::OK;
  });
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> streams;
  for (int i = 0; i < 100; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub_->Generate(contexts.back().get(), Text(absl::StrCat("stream ", i))));
  }
  for (int i = 0; i < 100; ++i) {
    std::string text;
    for (v1::GenerateResponse message; streams[i]->Read(&message);) text += message.text();
    EXPECT_TRUE(streams[i]->Finish().ok());
    EXPECT_EQ(text, absl::StrCat("stream ", i));
  }
}

TEST_F(GatewayTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  absl::Notification go_on;
  router_.Answer([&go_on](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'a'}));
    go_on.WaitForNotification();
    writer->Write(Ids({'b'}, "length"));
    return grpc::Status::OK;
  });
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Text("x"));
  v1::GenerateResponse message;
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_FALSE(dispatcher_.Drain(absl::Now() + absl::Milliseconds(50)));
  EXPECT_EQ(Generate(Text("x")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  go_on.Notify();
  EXPECT_TRUE(dispatcher_.Drain(absl::Now() + absl::Seconds(10)));
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_EQ(message.text(), "b");
  EXPECT_FALSE(stream->Read(&message));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GatewayTest, TokenizesAsGenerateDoesAndListsTheModel) {
  grpc::ClientContext text_context, chat_context, models_context, bad_context;
  v1::TokenizeRequest request;
  v1::TokenizeResponse response;
  request.set_text("hello");
  ASSERT_TRUE(stub_->Tokenize(&text_context, request, &response).ok());
  EXPECT_THAT(response.ids(), ElementsAre(kTinyHel, 'l', 'o'));
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("he");
  ASSERT_TRUE(stub_->Tokenize(&chat_context, request, &response).ok());
  EXPECT_THAT(response.ids(), ElementsAre(kTinyEnd, kTinyHe));
  model_->tokenizer = TinyTokenizer({}, R"({"bos_token": "<|end|>", "add_bos_token": true})");
  for (const bool without : {false, true}) {
    grpc::ClientContext bos_context;
    request.set_text("he");
    request.set_without_bos(without);
    ASSERT_TRUE(stub_->Tokenize(&bos_context, request, &response).ok());
    EXPECT_EQ(std::vector<int32_t>(response.ids().begin(), response.ids().end()),
              without ? std::vector<int32_t>{kTinyHe} : (std::vector<int32_t>{kTinyEnd, kTinyHe}));
  }
  request.set_text("");
  EXPECT_EQ(stub_->Tokenize(&bad_context, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&models_context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).id(), "tiny");
  EXPECT_EQ(models.models(0).family(), "deepseek_v3");
  EXPECT_EQ(models.models(0).context_tokens_max(), 64);
  EXPECT_EQ(models.models(0).vocab_size(), 261);
}

TEST(Gateway, IsUnavailableUntilItHasADispatcher) {
  const auto service = InferenceGrpcService::Create();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service->service());
  const auto server = builder.BuildAndStart();
  const auto stub = v1::InferenceService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  grpc::ClientContext generate_context, models_context;
  v1::ListModelsResponse models;
  EXPECT_EQ(stub->ListModels(&models_context, {}, &models).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(stub->Generate(&generate_context, {})->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace conclave
