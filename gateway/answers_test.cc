// What a request may ask of its answers: how many, where they end, what is told about them.
#include <atomic>
#include <string>
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
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Writes the choice's number and two letters, one message each.
grpc::Status Count(grpc::ServerContext*, const v1::DecodeRequest& request, DecodeWriter* writer) {
  v1::DecodeResponse first = Ids({'0' + request.choice()});
  first.set_cached_tokens(request.choice() == 0 ? 0 : 5);
  writer->Write(first);
  writer->Write(Ids({'a'}));
  v1::DecodeResponse last = Ids({'b'}, "length");
  last.set_logits_hash(absl::StrCat("hash", request.choice()));
  last.add_expert_use()->add_tokens(4);
  writer->Write(last);
  return grpc::Status::OK;
}

TEST_F(GatewayTest, SeveralAnswersComeByIndexWithOneUsageAtTheEnd) {
  router_.Answer(Count);
  v1::GenerateRequest request = Text("a");
  request.set_n(3);
  request.mutable_sampling()->set_seed(9);
  const Outcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(outcome.text(i), absl::StrCat(i, "ab"));
    EXPECT_EQ(outcome.finish_reason(i), "length");
  }
  int with_usage = 0, with_prompt = 0;
  for (const auto& message : outcome.messages) {
    with_usage += message.has_usage();
    with_prompt += message.prompt_ids_size() > 0;
  }
  EXPECT_EQ(with_usage, 1);
  EXPECT_EQ(with_prompt, 1);
  const v1::Usage& usage = outcome.messages.back().usage();
  EXPECT_EQ(usage.prompt_tokens(), 1);
  EXPECT_EQ(usage.completion_tokens(), 9);
  EXPECT_THAT(usage.expert_use(0).tokens(), ElementsAre(12));
  std::vector<int> choices;
  for (const auto& sent : router_.requests()) {
    choices.push_back(sent.choice());
    EXPECT_EQ(sent.sampling().seed(), 9u);
  }
  EXPECT_THAT(choices, ::testing::UnorderedElementsAre(0, 1, 2));
}

TEST_F(GatewayTest, OfALongPromptTheOtherAnswersBeginWhenItHasBeenRead) {
  model_->context_max = 512;
  absl::Notification may_go_on;
  router_.Answer([&](grpc::ServerContext* context, const v1::DecodeRequest& request, DecodeWriter* writer) {
    if (request.choice() == 0) may_go_on.WaitForNotification();
    return Count(context, request, writer);
  });
  v1::GenerateRequest request = Text(std::string(100, 'x'));
  request.set_n(4);
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, request);
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(router_.requests().size(), 1u) << "the prompt is read once";
  may_go_on.Notify();
  int finished = 0;
  for (v1::GenerateResponse message; stream->Read(&message);) finished += !message.finish_reason().empty();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(finished, 4);
  EXPECT_EQ(router_.requests().size(), 4u);
}

TEST_F(GatewayTest, OneAnswerThatFailsEndsThemAll) {
  std::atomic<int> cancelled{0};
  router_.Answer([&](grpc::ServerContext* context, const v1::DecodeRequest& request, DecodeWriter* writer) {
    writer->Write(Ids({'a'}));
    if (request.choice() == 1) {
      while (router_.requests().size() < 3) absl::SleepFor(absl::Milliseconds(1));
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "layer 1 expert 2: nobody");
    }
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    ++cancelled;
    return grpc::Status::CANCELLED;
  });
  v1::GenerateRequest request = Text("x");
  request.set_n(3);
  const Outcome outcome = Generate(request);
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(outcome.status.error_message(), HasSubstr("expert 2"));
  for (int i = 0; i < 500 && cancelled < 2; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(cancelled, 2);
  EXPECT_TRUE(MetricsCome("conclave_gateway_requests_running 0"));
}

TEST_F(GatewayTest, AClientThatLeavesFreesEveryAnswer) {
  std::atomic<int> cancelled{0};
  router_.Answer([&](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'a'}));
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    ++cancelled;
    return grpc::Status::CANCELLED;
  });
  v1::GenerateRequest request = Text("x");
  request.set_n(5);
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, request);
  v1::GenerateResponse message;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(stream->Read(&message));
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 500 && cancelled < 5; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(cancelled, 5);
  EXPECT_TRUE(MetricsCome("conclave_gateway_requests_running 0"));
}

TEST_F(GatewayTest, AStopTextEndsTheAnswerAndTheRoutersWork) {
  absl::Notification cancelled;
  router_.Answer([&](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter* writer) {
    for (const char c : std::string("one\n\ntwo")) writer->Write(Ids({c}));
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    cancelled.Notify();
    return grpc::Status::CANCELLED;
  });
  v1::GenerateRequest request = Text("x");
  request.add_stop("never");
  request.add_stop("\n\n");
  const Outcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.text(), "one");
  EXPECT_EQ(outcome.finish_reason(), "stop");
  EXPECT_THAT(outcome.ids(), ElementsAre('o', 'n', 'e'));
  EXPECT_EQ(outcome.messages.back().usage().completion_tokens(), 5);
  for (const auto& message : outcome.messages) EXPECT_THAT(message.text(), ::testing::Not(HasSubstr("\n")));
  EXPECT_TRUE(cancelled.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_TRUE(MetricsCome("conclave_gateway_requests_total{code=\"OK\",method=\"Generate\"} 1"));
}

TEST_F(GatewayTest, StopIdsAndMinTokensReachTheRouter) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({'a', '#'}, "stop"));
    return grpc::Status::OK;
  });
  v1::GenerateRequest request = Text("x");
  request.add_stop_token_ids('#');
  request.set_min_tokens(2);
  const Outcome outcome = Generate(request);
  EXPECT_EQ(outcome.text(), "a") << "a stop id has no text";
  const auto sent = router_.requests();
  EXPECT_THAT(sent[0].stop_token_ids(), ElementsAre('#'));
  EXPECT_EQ(sent[0].min_tokens(), 2);
}

TEST_F(GatewayTest, EchoPutsThePromptBeforeEveryAnswer) {
  router_.Answer(Count);
  v1::GenerateRequest request = Text("hello ");
  request.set_echo(true);
  request.set_n(2);
  const Outcome text = Generate(request);
  EXPECT_EQ(text.text(0), "hello 0ab");
  EXPECT_EQ(text.text(1), "hello 1ab");
  request.mutable_tokens()->add_ids(kTinyHel);
  request.mutable_tokens()->add_ids(kTinyEnd);
  request.mutable_tokens()->add_ids('o');
  EXPECT_EQ(Generate(request).text(1), "helo1ab");
}

TEST_F(GatewayTest, AGrammarIsPassedOnAndAnAnswerWithoutItIsNone) {
  v1::GenerateRequest request = Text("a");
  request.mutable_grammar()->set_json_schema(R"({"type": "null"})");
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest& request, DecodeWriter* writer) {
    v1::DecodeResponse response = Ids({'n'}, "length");
    response.set_holds_to_grammar(request.grammar().json_schema() == R"({"type": "null"})");
    writer->Write(response);
    return grpc::Status::OK;
  });
  EXPECT_EQ(Generate(request).text(0), "n");
  // As one does that is older than grammars.
  router_.Answer(Count);
  const Outcome outcome = Generate(request);
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(outcome.status.error_message(), HasSubstr("update it"));
}

TEST_F(GatewayTest, LogprobsComeWithTheTokensBytesAndThePromptsWithEcho) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest& request, DecodeWriter* writer) {
    v1::DecodeResponse response = Ids({0xe2, 'x'}, "length");
    for (const int32_t id : response.ids()) {
      v1::TokenLogprob* logprob = response.add_logprobs();
      logprob->set_id(id);
      logprob->set_logprob(-1);
      for (int i = 0; i < request.top_logprobs(); ++i) logprob->add_top()->set_id('A' + i);
    }
    if (request.prompt_logprobs()) {
      for (const int32_t id : request.prompt_ids()) response.add_prompt_logprobs()->set_id(id);
    }
    writer->Write(response);
    return grpc::Status::OK;
  });
  v1::GenerateRequest request = Text("he!");
  request.set_logprobs(2);
  Outcome outcome = Generate(request);
  ASSERT_EQ(outcome.messages.size(), 1u);
  EXPECT_EQ(outcome.messages[0].prompt_logprobs_size(), 0);
  ASSERT_EQ(outcome.messages[0].logprobs_size(), 2);
  EXPECT_EQ(outcome.messages[0].logprobs(0).token(), "\xe2");
  EXPECT_EQ(outcome.messages[0].logprobs(1).top(1).token(), "B");

  request.set_echo(true);
  request.set_n(2);
  outcome = Generate(request);
  ASSERT_EQ(outcome.messages.size(), 2u);
  for (const auto& message : outcome.messages) {
    ASSERT_EQ(message.prompt_logprobs_size(), 2) << "choice " << message.index();
    EXPECT_EQ(message.prompt_logprobs(0).token(), "he");
  }
  int asked = 0;
  for (const auto& sent : router_.requests()) asked += sent.prompt_logprobs();
  EXPECT_EQ(asked, 1) << "once for all answers";
}

TEST_F(GatewayTest, WithoutTokensToGenerateTheEchoIsTheAnswer) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest& request, DecodeWriter* writer) {
    v1::DecodeResponse response = Ids({}, "length");
    response.set_cached_tokens(request.choice());
    if (request.prompt_logprobs()) {
      for (const int32_t id : request.prompt_ids()) {
        v1::TokenLogprob* logprob = response.add_prompt_logprobs();
        logprob->set_id(id);
        logprob->set_logprob(-0.5f);
      }
    }
    writer->Write(response);
    return grpc::Status::OK;
  });
  v1::GenerateRequest request = Text("he!");
  request.set_max_tokens(0);
  request.set_echo(true);
  request.set_logprobs(0);
  request.set_n(2);
  const Outcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  ASSERT_EQ(outcome.messages.size(), 2u);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(outcome.text(i), "he!");
    EXPECT_TRUE(outcome.ids(i).empty());
    EXPECT_EQ(outcome.finish_reason(i), "length");
    ASSERT_EQ(outcome.messages[i].prompt_logprobs_size(), 2);
    EXPECT_EQ(outcome.messages[i].prompt_logprobs(1).logprob(), -0.5f);
    EXPECT_EQ(outcome.messages[i].logprobs_size(), 0);
  }
  const v1::Usage& usage = outcome.messages.back().usage();
  EXPECT_EQ(usage.prompt_tokens(), 2);
  EXPECT_EQ(usage.completion_tokens(), 0);
  const auto sent = router_.requests();
  ASSERT_EQ(sent.size(), 2u);
  for (const auto& decode : sent) EXPECT_EQ(decode.max_tokens(), 0);
}

TEST_F(GatewayTest, SlowReadersGetEveryAnswersTextInOrderAndTheUsageLast) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest& request, DecodeWriter* writer) {
    for (int i = 0; i < 500; ++i) writer->Write(Ids({'a' + request.choice()}));
    writer->Write(Ids({'.'}, "length"));
    return grpc::Status::OK;
  });
  v1::GenerateRequest request = Text("x");
  request.set_n(4);
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, request);
  absl::SleepFor(absl::Milliseconds(200));
  Outcome outcome;
  for (v1::GenerateResponse message; stream->Read(&message);) outcome.messages.push_back(message);
  EXPECT_TRUE(stream->Finish().ok());
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(outcome.text(i), std::string(500, static_cast<char>('a' + i)) + ".");
    EXPECT_EQ(outcome.ids(i).size(), 501u);
  }
  EXPECT_TRUE(outcome.messages.back().has_usage());
}

TEST_F(GatewayTest, TheModelsOwnDefaultsHoldUnlessARequestSaysOtherwise) {
  model_->defaults.sampling.set_temperature(0.6f);
  model_->defaults.sampling.set_top_k(40);
  model_->defaults.max_tokens = 1000;
  v1::GenerateRequest request = Text("a");
  Generate(request);
  request.mutable_sampling()->set_temperature(0);
  request.set_max_tokens(7);
  Generate(request);
  const auto sent = router_.requests();
  EXPECT_EQ(sent[0].sampling().temperature(), 0.6f);
  EXPECT_EQ(sent[0].sampling().top_k(), 40);
  EXPECT_EQ(sent[0].sampling().repetition_penalty(), 1);
  EXPECT_EQ(sent[0].max_tokens(), 63) << "no more than the context leaves";
  EXPECT_EQ(sent[1].sampling().temperature(), 0);
  EXPECT_EQ(sent[1].max_tokens(), 7);
}

TEST_F(GatewayTest, ChatIsGenerateWithMessagesAndNamesItsOwnFields) {
  v1::ChatRequest request;
  v1::ChatMessage* message = request.add_messages();
  message->set_role("user");
  message->set_content("he");
  Outcome outcome = Chat(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.text(), "ok");
  EXPECT_THAT(router_.requests()[0].prompt_ids(), ElementsAre(kTinyEnd, kTinyHe));

  message->set_role("nobody");
  EXPECT_THAT(Chat(request).status.error_message(), StartsWith("messages[0].role: "));
  message->set_role("user");
  request.mutable_options()->mutable_sampling()->set_top_p(2);
  EXPECT_THAT(Chat(request).status.error_message(), StartsWith("options.sampling.top_p: "));
  request.mutable_options()->clear_sampling();
  request.mutable_options()->set_text("x");
  EXPECT_THAT(Chat(request).status.error_message(), StartsWith("options.prompt: "));
  EXPECT_THAT(Chat({}).status.error_message(), StartsWith("messages: must not be empty"));
}

TEST_F(GatewayTest, DetokenizesAsAnswersAre) {
  const auto text = [this](const std::vector<int32_t>& ids) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    v1::DetokenizeResponse response;
    request.mutable_ids()->Add(ids.begin(), ids.end());
    const grpc::Status status = stub_->Detokenize(&context, request, &response);
    return status.ok() ? response.text() : status.error_message();
  };
  EXPECT_EQ(text({kTinyHel, 'l', 'o', kTinyEnd}), "hello");
  EXPECT_EQ(text({}), "");
  EXPECT_EQ(text({0xf0, 'x'}), "\xef\xbf\xbdx");
  EXPECT_THAT(text({261}), StartsWith("ids[0]: "));
}

}  // namespace
}  // namespace conclave
