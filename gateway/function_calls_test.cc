// Functions that a model may call, from a request to the calls in its answer.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/gateway_fixture_for_test.h"
#include "gateway/tools/tool_support.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

// In the form of DeepSeek-V3.1.
constexpr char kTemplate[] =
    "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>{{ c.function.arguments "
    "}}"
    "{% endfor %}{% endfor %}";
constexpr char kBegin[] = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", kSeparator[] = "<｜tool▁sep｜>";
constexpr char kEnd[] = "<｜tool▁call▁end｜>";

class FunctionCallsTest : public GatewayTest {
 protected:
  FunctionCallsTest() {
    model_->context_max = 4096;
    Use(kTemplate, "auto");
  }

  void Use(const std::string& source, const std::string& parser) {
    model_->chat_template = *ChatTemplate::LoadFromJson(nlohmann::json({{"chat_template", source}}).dump());
    model_->tools = FindToolSupport(model_->chat_template.get(), *model_->tokenizer, parser);
  }

  static v1::ChatRequest Request() {
    v1::ChatRequest request;
    request.add_messages()->set_role("user");
    request.mutable_messages(0)->set_content("Weather?");
    request.add_tools(R"({"type": "function", "function": {"name": "weather", "parameters": {}}})");
    request.add_tools(R"({"type": "function", "function": {"name": "clock"}})");
    return request;
  }

  // One message for each byte, and then what ends it.
  void Says(const std::string& answer, const std::string& finish = "stop") {
    router_.Answer([=](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
      for (const char byte : answer) writer->Write(Ids({static_cast<unsigned char>(byte)}));
      writer->Write(Ids({}, finish));
      return grpc::Status::OK;
    });
  }

  // The prompt of the request that came last, as text.
  std::string Prompt() {
    const auto requests = router_.requests();
    std::string text;
    for (const int32_t id : requests.back().prompt_ids()) text += std::string(model_->tokenizer->TokenBytes(id));
    return text;
  }

  // "weather {…};" for each call of an answer.
  static std::string Calls(const Outcome& outcome, int index = 0) {
    std::vector<std::string> calls;
    for (const auto& message : outcome.messages) {
      if (message.index() != index) continue;
      for (const v1::ToolCallDelta& delta : message.tool_calls()) {
        calls.resize(std::max(calls.size(), static_cast<size_t>(delta.index()) + 1));
        calls.back() += delta.name().empty() ? delta.arguments() : absl::StrCat(delta.name(), " ", delta.arguments());
      }
    }
    std::string all;
    for (const std::string& call : calls) absl::StrAppend(&all, call, ";");
    return all;
  }
};

TEST_F(FunctionCallsTest, CallsComeApartFromText) {
  Says(absl::StrCat("I look.\n", kBegin, "weather", kSeparator, "{\"city\": \"Köln\"}", kEnd,
                    "<｜tool▁call▁begin｜>clock", kSeparator, "{}", kEnd, "<｜tool▁calls▁end｜>"));
  const Outcome outcome = Chat(Request());
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.text(), "I look.");
  EXPECT_EQ(Calls(outcome), "weather {\"city\": \"Köln\"};clock {};");
  EXPECT_EQ(outcome.finish_reason(), "tool_calls");
  EXPECT_EQ(Prompt(), "weather;clock;[user]Weather?");
  EXPECT_GT(outcome.ids().size(), 100u) << "ids are those of the whole answer";
}

TEST_F(FunctionCallsTest, AnAnswerWithoutCallsIsAsEver) {
  Says("No need. \n");
  const Outcome outcome = Chat(Request());
  EXPECT_EQ(outcome.text(), "No need. \n");
  EXPECT_EQ(Calls(outcome), "");
  EXPECT_EQ(outcome.finish_reason(), "stop");
}

TEST_F(FunctionCallsTest, ArgumentsThatAreCutOffEndWithLength) {
  Says(absl::StrCat(kBegin, "weather", kSeparator, "{\"ci"), "length");
  const Outcome outcome = Chat(Request());
  EXPECT_EQ(Calls(outcome), "weather {\"ci;");
  EXPECT_EQ(outcome.finish_reason(), "length");
}

TEST_F(FunctionCallsTest, EachOfSeveralAnswersHasCallsOfItsOwn) {
  Says(absl::StrCat(kBegin, "clock", kSeparator, "{}", kEnd));
  v1::ChatRequest request = Request();
  request.mutable_options()->set_n(2);
  const Outcome outcome = Chat(request);
  for (int index = 0; index < 2; ++index) {
    EXPECT_EQ(Calls(outcome, index), "clock {};");
    EXPECT_EQ(outcome.finish_reason(index), "tool_calls");
  }
}

TEST_F(FunctionCallsTest, WithNoneTheModelIsNotToldAndItsTextIsText) {
  const std::string answer = absl::StrCat(kBegin, "clock", kSeparator, "{}", kEnd);
  Says(answer);
  v1::ChatRequest request = Request();
  request.mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_NONE);
  const Outcome outcome = Chat(request);
  EXPECT_EQ(outcome.text(), answer);
  EXPECT_EQ(outcome.finish_reason(), "stop");
  EXPECT_EQ(Prompt(), "[user]Weather?");
}

TEST_F(FunctionCallsTest, ANamedFunctionIsCalledOnceAndThenTheAnswerEnds) {
  absl::Notification cancelled;
  router_.Answer([&](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter* writer) {
    for (const char byte : absl::StrCat("{\"zone\": 1}", kEnd, "more")) {
      writer->Write(Ids({static_cast<unsigned char>(byte)}));
    }
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    cancelled.Notify();
    return grpc::Status::CANCELLED;
  });
  v1::ChatRequest request = Request();
  request.mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_FUNCTION);
  request.mutable_tool_choice()->set_function("clock");
  const Outcome outcome = Chat(request);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.text(), "");
  EXPECT_EQ(Calls(outcome), "clock {\"zone\": 1};");
  EXPECT_EQ(outcome.finish_reason(), "tool_calls");
  EXPECT_THAT(Prompt(), EndsWith(absl::StrCat("[user]Weather?", kBegin, "clock", kSeparator)));
  cancelled.WaitForNotification();
}

TEST_F(FunctionCallsTest, ARequiredCallIsBegunForTheModelWhichChoosesTheFunction) {
  Says(absl::StrCat("weather", kSeparator, "{}", kEnd, "<｜tool▁call▁begin｜>clock", kSeparator, "{}", kEnd));
  v1::ChatRequest request = Request();
  request.mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_REQUIRED);
  EXPECT_EQ(Calls(Chat(request)), "weather {};clock {};");
  EXPECT_THAT(Prompt(), EndsWith(absl::StrCat("[user]Weather?", kBegin)));
  // Of one function there is nothing to choose, but it may be called again.
  v1::ChatRequest only = request;
  only.mutable_tools()->RemoveLast();
  Says(absl::StrCat("{}", kEnd, "<｜tool▁call▁begin｜>weather", kSeparator, "{\"a\": 1}", kEnd));
  EXPECT_EQ(Calls(Chat(only)), "weather {};weather {\"a\": 1};");
  EXPECT_THAT(Prompt(), EndsWith(absl::StrCat("[user]Weather?", kBegin, "weather", kSeparator)));
  Says(absl::StrCat("weather", kSeparator, "{}", kEnd, "<｜tool▁call▁begin｜>clock", kSeparator, "{}", kEnd));
  request.set_single_tool_call(true);
  const Outcome one = Chat(request);
  EXPECT_EQ(Calls(one), "weather {};");
  EXPECT_EQ(one.finish_reason(), "tool_calls");
}

TEST_F(FunctionCallsTest, AForcedCallEndsTheThoughtsThatThePromptBegins) {
  Use(absl::StrCat(kTemplate, "{{ '<think>\\n' }}"), "auto");
  Says(absl::StrCat("hm", kBegin, "clock", kSeparator, "{}", kEnd, "</think>\n\nNo."));
  v1::ChatRequest request = Request();
  const Outcome thinks = Chat(request);
  EXPECT_EQ(Calls(thinks), "") << "what is thought is not called";
  EXPECT_THAT(thinks.text(), EndsWith("</think>\n\nNo."));
  Says(absl::StrCat("clock", kSeparator, "{}", kEnd));
  request.mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_REQUIRED);
  EXPECT_EQ(Calls(Chat(request)), "clock {};");
  EXPECT_THAT(Prompt(), EndsWith(absl::StrCat("<think>\n</think>\n\n", kBegin)));
}

TEST_F(FunctionCallsTest, MarkersThatAreSpecialTokensAreSeenAndOthersStillLeftOut) {
  nlohmann::json file = TinyTokenizerJson();
  int32_t id = 261;
  for (const char* marker : {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", kSeparator, kEnd, "<|other|>"}) {
    file["added_tokens"].push_back({{"id", id++}, {"content", marker}, {"special", true}});
  }
  model_->tokenizer = *Tokenizer::LoadFromJson(file.dump(), "");
  model_->vocab = id;
  Use(kTemplate, "auto");
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({265, 261, 262, 'c', 'l', 'o', 'c', 'k', 263, '{', '}', 264}, "stop"));
    return grpc::Status::OK;
  });
  const Outcome outcome = Chat(Request());
  EXPECT_EQ(Calls(outcome), "clock {};");
  EXPECT_EQ(outcome.text(), "");
  // Without functions nothing of them is shown, as ever.
  v1::ChatRequest plain = Request();
  plain.clear_tools();
  EXPECT_EQ(Chat(plain).text(), "clock{}");
}

TEST_F(FunctionCallsTest, CallsAndResultsReachTheTemplate) {
  v1::ChatRequest request = Request();
  v1::ChatMessage* assistant = request.add_messages();
  assistant->set_role("assistant");
  v1::ToolCall* call = assistant->add_tool_calls();
  call->set_id("call_1");
  call->set_name("clock");
  call->set_arguments("{\"a\":1}");
  v1::ChatMessage* result = request.add_messages();
  result->set_role("tool");
  result->set_tool_call_id("call_1");
  result->set_content("noon");
  ASSERT_TRUE(Chat(request).status.ok());
  const std::string shown = absl::StrCat("[assistant]<｜tool▁call▁begin｜>clock", kSeparator, "{\"a\":1}[tool]noon");
  EXPECT_THAT(Prompt(), EndsWith(shown));
  // A template without a place for them gets them in words, where the form has no tokens of its own.
  const std::string plain = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
  Use(plain, "hermes");
  ASSERT_TRUE(Chat(request).status.ok());
  EXPECT_THAT(Prompt(), EndsWith("[assistant]<tool_call>\n{\"name\": \"clock\", \"arguments\": {\"a\":1}}\n</tool_call>"
                                 "[user]<tool_response>\nnoon\n</tool_response>"));
  EXPECT_THAT(Prompt(), HasSubstr("[system]## Tools"));
  Use(plain, "kimi_k2");
  const Outcome refused = Chat(request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("messages[1]: this model's chat template has no place"));
}

TEST_F(FunctionCallsTest, WordsBesideCallsAndThoughtsReachTheTemplate) {
  v1::ChatRequest request = Request();
  v1::ChatMessage* assistant = request.add_messages();
  assistant->set_role("assistant");
  assistant->set_content("I look.");
  assistant->set_reasoning_content("hm");
  v1::ToolCall* call = assistant->add_tool_calls();
  call->set_id("call_1");
  call->set_name("clock");
  call->set_arguments("{}");
  v1::ChatMessage* result = request.add_messages();
  result->set_role("tool");
  result->set_tool_call_id("call_1");
  const std::string calls =
      "{% for c in m.tool_calls or [] %}<｜tool▁call▁begin｜>{{ c.function.arguments }}{% endfor %}";
  Use(absl::StrCat("{% for m in messages %}[{{ m.role }}]({{ m.reasoning_content }}){{ m.content or '' }}", calls,
                   "{% endfor %}"),
      "deepseek_v31");
  ASSERT_TRUE(Chat(request).status.ok());
  EXPECT_THAT(Prompt(), EndsWith("[assistant](hm)I look.<｜tool▁call▁begin｜>{}[tool]()"));
  // As DeepSeek-R1's: calls are shown where there are no words.
  Use(absl::StrCat("{% for m in messages %}[{{ m.role }}]{% if m.content is none %}", calls,
                   "{% else %}{{ m.content }}{% endif %}{% endfor %}"),
      "deepseek_v31");
  ASSERT_TRUE(Chat(request).status.ok());
  EXPECT_THAT(Prompt(), EndsWith("[assistant]I look.[assistant]<｜tool▁call▁begin｜>{}[tool]"));
  // Calls in words of ours leave the thoughts where they are.
  Use("{% for m in messages %}[{{ m.role }}]({{ m.reasoning_content }}){{ m.content }}{% endfor %}", "hermes");
  ASSERT_TRUE(Chat(request).status.ok());
  EXPECT_THAT(Prompt(), HasSubstr("[assistant](hm)I look.\n<tool_call>"));
}

TEST_F(FunctionCallsTest, AModelWithoutAFormIsOfferedNone) {
  Use("{{ messages[0].content }}", "auto");
  const Outcome refused = Chat(Request());
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("tools: this model's chat template shows no form of calls"));
  v1::ChatRequest none = Request();
  none.mutable_tool_choice()->set_mode(v1::ToolChoice::MODE_NONE);
  EXPECT_TRUE(Chat(none).status.ok());
}

TEST_F(FunctionCallsTest, BadDefinitionsAreRefusedByField) {
  v1::ChatRequest request = Request();
  request.set_tools(1, R"({"type": "function", "function": {"name": "a b"}})");
  EXPECT_THAT(Chat(request).status.error_message(), ::testing::StartsWith("tools[1].function.name: must be"));
  request = Request();
  request.add_messages()->set_role("tool");
  EXPECT_THAT(Chat(request).status.error_message(), ::testing::StartsWith("messages[1].tool_call_id: is missing"));
  EXPECT_TRUE(router_.requests().empty());
}

}  // namespace
}  // namespace conclave
