#include "gateway/http/api_request.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/http/error_body.h"
#include "gateway/http/json_body.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

nlohmann::json Body(const std::string& text) {
  auto body = ParseJsonBody(text);
  EXPECT_TRUE(body.ok()) << body.status();
  return *body;
}

absl::StatusOr<ApiRequest> ChatOf(const std::string& text, const TranslationOptions& options = {}) {
  return TranslateChat(Body(text), text, options);
}

absl::StatusOr<v1::TokenizeRequest> TokenizeOf(const std::string& text) { return TranslateTokenize(Body(text), text); }

ApiRequest Chat(const std::string& fields) {
  auto request = ChatOf(R"({"messages": [{"role": "user", "content": "Hi"}])" + fields + "}");
  EXPECT_TRUE(request.ok()) << request.status();
  return request.ok() ? *request : ApiRequest{};
}

ApiRequest Completion(const std::string& text, const TranslationOptions& options = {}) {
  auto request = TranslateCompletion(Body(text), text, options);
  EXPECT_TRUE(request.ok()) << request.status();
  return request.ok() ? *request : ApiRequest{};
}

// The field and the code of the refusal of a completion with these fields.
std::string Refused(const std::string& fields) {
  const std::string text = R"({"prompt": "a", )" + fields + "}";
  const auto request = TranslateCompletion(Body(text), text, {});
  EXPECT_FALSE(request.ok()) << fields;
  const ApiError error = ToApiError(request.status());
  EXPECT_EQ(error.status, 400);
  return error.param + "/" + error.code;
}

TEST(TranslateChat, RolesPartsAndNames) {
  const auto request = ChatOf(R"({"model": "m", "messages": [
      {"role": "developer", "content": "Be brief."},
      {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": "c", "refusal": null, "tool_calls": null, "annotations": []}]})");
  ASSERT_TRUE(request.ok()) << request.status();
  const v1::GenerateRequest& prompt = request->prompts.at(0);
  EXPECT_EQ(prompt.model(), "m");
  ASSERT_EQ(prompt.chat().messages_size(), 3);
  EXPECT_EQ(prompt.chat().messages(0).role(), "system");
  EXPECT_EQ(prompt.chat().messages(1).content(), "ab");
  EXPECT_EQ(prompt.chat().messages(1).name(), "Ann");
  EXPECT_EQ(prompt.chat().messages(2).role(), "assistant");
}

TEST(TranslateChat, EveryFieldArrives) {
  const ApiRequest request = Chat(R"(, "temperature": 0.5,
      "top_p": 0.25, "top_k": 7, "min_p": 0.125, "seed": -1, "n": 3, "max_completion_tokens": 9, "min_tokens": 2,
      "stop": ["x", "y"], "stop_token_ids": [4], "ignore_eos": true, "presence_penalty": 1, "frequency_penalty": -1,
      "repetition_penalty": 1.5, "logit_bias": {"3": -100}, "logprobs": true, "top_logprobs": 5, "priority": -2,
      "hash_logits": true, "token_experts": true, "stream": true, "stream_options": {"include_usage": true})");
  ASSERT_EQ(request.prompts.size(), 1u);
  const v1::GenerateRequest& prompt = request.prompts[0];
  EXPECT_EQ(prompt.sampling().temperature(), 0.5f);
  EXPECT_EQ(prompt.sampling().top_p(), 0.25f);
  EXPECT_EQ(prompt.sampling().top_k(), 7);
  EXPECT_EQ(prompt.sampling().min_p(), 0.125f);
  EXPECT_EQ(prompt.sampling().seed(), ~uint64_t{0});
  EXPECT_EQ(prompt.sampling().presence_penalty(), 1);
  EXPECT_EQ(prompt.sampling().frequency_penalty(), -1);
  EXPECT_EQ(prompt.sampling().repetition_penalty(), 1.5f);
  EXPECT_EQ(prompt.sampling().logit_bias().at(3), -100);
  EXPECT_EQ(prompt.n(), 3);
  EXPECT_EQ(prompt.max_tokens(), 9);
  EXPECT_EQ(prompt.min_tokens(), 2);
  EXPECT_THAT(prompt.stop(), ElementsAre("x", "y"));
  EXPECT_THAT(prompt.stop_token_ids(), ElementsAre(4));
  EXPECT_TRUE(prompt.ignore_eos());
  EXPECT_EQ(prompt.logprobs(), 5);
  EXPECT_EQ(prompt.priority(), -2);
  EXPECT_TRUE(prompt.hash_logits());
  EXPECT_TRUE(prompt.report_token_experts());
  EXPECT_TRUE(request.stream && request.include_usage && request.logprobs);
}

TEST(TranslateChat, ToolsKeepTheOrderOfTheirKeys) {
  const std::string tool = R"({"type":"function", "function" : {"name": "f", "b\u0061": 1.50, "a": "],}\"{"}})";
  const ApiRequest request = Chat(R"(, "x\"y": null, "tools" : [ )" + tool + R"( , {"b": [1]} ], "tool_choice": "auto",
      "parallel_tool_calls": false)");
  const v1::ChatPrompt& chat = request.prompts.at(0).chat();
  EXPECT_THAT(chat.tools(), ElementsAre(tool, R"({"b": [1]})"));
  EXPECT_EQ(chat.tool_choice().mode(), v1::ToolChoice::MODE_AUTO);
  EXPECT_TRUE(chat.single_tool_call());
  EXPECT_EQ(Chat(R"(, "tools": [])").prompts[0].chat().tools_size(), 0);
  EXPECT_FALSE(Chat(R"(, "parallel_tool_calls": true)").prompts[0].chat().single_tool_call());
  EXPECT_EQ(TokenizeOf(R"({"messages": [{"role": "user", "content": "a"}], "tools": [1, 2]})")->chat().tools_size(), 2);
}

TEST(TranslateChat, ToolChoiceInEveryForm) {
  const auto choice = [](const std::string& text) { return Chat(", \"tool_choice\": " + text).prompts[0].chat(); };
  EXPECT_EQ(choice(R"("none")").tool_choice().mode(), v1::ToolChoice::MODE_NONE);
  EXPECT_EQ(choice(R"("required")").tool_choice().mode(), v1::ToolChoice::MODE_REQUIRED);
  EXPECT_FALSE(choice("null").has_tool_choice());
  const v1::ChatPrompt named = choice(R"({"type": "function", "function": {"name": "f"}})");
  EXPECT_EQ(named.tool_choice().mode(), v1::ToolChoice::MODE_FUNCTION);
  EXPECT_EQ(named.tool_choice().function(), "f");
}

TEST(TranslateChat, CallsAndResultsArrive) {
  const auto request = ChatOf(R"({"messages": [{"role": "user", "content": "?"},
      {"role": "assistant", "content": null, "refusal": null, "reasoning_content": "hm", "tool_calls": [
        {"id": "call_1", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
      {"role": "tool", "tool_call_id": "call_1", "name": "f", "content": [{"type": "text", "text": "42"}]}]})");
  ASSERT_TRUE(request.ok()) << request.status();
  const v1::ChatPrompt& chat = request->prompts[0].chat();
  ASSERT_EQ(chat.messages(1).tool_calls_size(), 1);
  EXPECT_EQ(chat.messages(1).content(), "");
  EXPECT_EQ(chat.messages(1).reasoning_content(), "hm");
  EXPECT_EQ(chat.messages(1).tool_calls(0).id(), "call_1");
  EXPECT_EQ(chat.messages(1).tool_calls(0).name(), "f");
  EXPECT_EQ(chat.messages(1).tool_calls(0).arguments(), "{\"a\": 1}");
  EXPECT_EQ(chat.messages(2).role(), "tool");
  EXPECT_EQ(chat.messages(2).tool_call_id(), "call_1");
  EXPECT_EQ(chat.messages(2).content(), "42");
}

TEST(TranslateChat, WhatIsWrongWithToolsIsNamed) {
  const auto refused = [](const std::string& text) {
    const auto request = ChatOf(text);
    EXPECT_FALSE(request.ok()) << text;
    const ApiError error = ToApiError(request.status());
    return error.param + "/" + error.code;
  };
  const auto field = [&](const std::string& text) {
    return refused(R"({"messages": [{"role": "user", "content": "Hi"}], )" + text + "}");
  };
  EXPECT_EQ(field(R"("tools": {})"), "tools/");
  EXPECT_EQ(field(R"("t\u006fols": [1])"), "tools/");
  EXPECT_EQ(field(R"("tool_choice": "any")"), "tool_choice/");
  EXPECT_EQ(field(R"("tool_choice": 1)"), "tool_choice/");
  EXPECT_EQ(field(R"("tool_choice": {"type": "allowed_tools"})"), "tool_choice.type/unsupported_parameter");
  EXPECT_EQ(field(R"("tool_choice": {"type": "function"})"), "tool_choice.function/");
  EXPECT_EQ(field(R"("tool_choice": {"type": "function", "function": {}})"), "tool_choice.function.name/");
  EXPECT_EQ(field(R"("parallel_tool_calls": 1)"), "parallel_tool_calls/");
  EXPECT_EQ(field(R"("functions": [])"), "functions/unsupported_parameter");
  const auto call = [&](const std::string& text) {
    return refused(R"({"messages": [{"role": "assistant", "tool_calls": )" + text + "}]}");
  };
  EXPECT_EQ(call("{}"), "messages[0].tool_calls/");
  EXPECT_EQ(call("[]"), "messages[0].content/");
  EXPECT_EQ(call("[1]"), "messages[0].tool_calls[0]/");
  EXPECT_EQ(call("[{}]"), "messages[0].tool_calls[0].id/");
  EXPECT_EQ(call(R"([{"id": "a", "type": "custom"}])"), "messages[0].tool_calls[0].type/unsupported_parameter");
  EXPECT_EQ(call(R"([{"id": "a"}])"), "messages[0].tool_calls[0].function/");
  EXPECT_EQ(call(R"([{"id": "a", "function": {"name": "f"}}])"), "messages[0].tool_calls[0].function.arguments/");
  EXPECT_EQ(call(R"([{"id": "a", "function": {"name": "é", "arguments": ""}}])"),
            "messages[0].tool_calls[0].function.name/");
  EXPECT_EQ(call(R"([{"id": "a", "x": 1, "function": {"name": "f", "arguments": ""}}])"),
            "messages[0].tool_calls[0].x/unknown_parameter");
  EXPECT_EQ(refused(R"({"messages": [{"role": "function", "content": "a"}]})"),
            "messages[0].role/unsupported_parameter");
}

TEST(TranslateChat, DefaultsAreOpenAisUnlessTheModelHasItsOwn) {
  TranslationOptions options;
  options.chat_tokens_max = 512;
  const std::string body = R"({"messages": [{"role": "user", "content": "Hi"}]})";
  const auto plain = ChatOf(body, options);
  EXPECT_EQ(plain->prompts[0].sampling().temperature(), 1);
  EXPECT_EQ(plain->prompts[0].max_tokens(), 512);
  EXPECT_FALSE(plain->prompts[0].has_logprobs());
  EXPECT_FALSE(plain->prompts[0].sampling().has_seed());
  options.temperature = std::nullopt;
  options.chat_tokens_max = std::nullopt;
  const auto models = ChatOf(body, options);
  EXPECT_FALSE(models->prompts[0].sampling().has_temperature());
  EXPECT_FALSE(models->prompts[0].has_max_tokens());
  EXPECT_EQ(Completion(R"({"prompt": "a"})").prompts[0].max_tokens(), 16);
}

TEST(TranslateCompletion, PromptsInEveryForm) {
  EXPECT_EQ(Completion(R"({"prompt": "a"})").prompts.at(0).text(), "a");
  EXPECT_THAT(Completion(R"({"prompt": [1, 2]})").prompts.at(0).tokens().ids(), ElementsAre(1, 2));
  const ApiRequest several = Completion(R"({"prompt": ["a", [3]], "n": 2, "echo": true, "logprobs": 0, "best_of": 2})");
  ASSERT_EQ(several.prompts.size(), 2u);
  EXPECT_EQ(several.prompts[0].text(), "a");
  EXPECT_THAT(several.prompts[1].tokens().ids(), ElementsAre(3));
  EXPECT_TRUE(several.prompts[1].echo());
  EXPECT_TRUE(several.prompts[1].has_logprobs());
  EXPECT_EQ(several.choices, 2);
  TranslationOptions options;
  options.prompts_max = 1;
  EXPECT_THAT(TranslateCompletion(Body(R"({"prompt": ["a", "b"]})"), "", options).status().message(),
              HasSubstr("prompt: has 2 prompts; at most 1"));
}

TEST(TranslateCompletion, MayAskForNoTokens) {
  const ApiRequest scored = Completion(R"({"prompt": "a", "max_tokens": 0, "echo": true})");
  EXPECT_TRUE(scored.prompts[0].has_max_tokens());
  EXPECT_EQ(scored.prompts[0].max_tokens(), 0);
  EXPECT_EQ(Refused(R"("max_tokens": -1)"), "max_tokens/");
  const auto chat = ChatOf(R"({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 0})");
  EXPECT_THAT(chat.status().message(), HasSubstr("max_tokens: is 0; it must be from 1"));
}

TEST(TranslateChat, FormatsBecomeGrammars) {
  EXPECT_FALSE(Chat(R"(, "response_format": {"type": "text"})").prompts.at(0).has_grammar());
  const auto grammar = [](const std::string& fields) { return Chat(", " + fields).prompts.at(0).grammar(); };
  EXPECT_TRUE(grammar(R"("response_format": {"type": "json_object"})").json_object());
  EXPECT_EQ(grammar(R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true,
                       "description": "d", "schema": {"type": "null"}}})").json_schema(), R"({"type": "null"})");
  EXPECT_EQ(grammar(R"("guided_json": "true")").json_schema(), "true");
  EXPECT_EQ(grammar(R"("guided_regex": "a+")").regex(), "a+");
  EXPECT_THAT(grammar(R"("structured_outputs": {"choice": ["a", "b"]})").choices().texts(), ElementsAre("a", "b"));
}

TEST(TranslateChat, ASchemaIsPassedOnAsItWasWritten) {
  const std::string text = R"({"messages": [{"role": "user", "content": "\"}: {"}], "response_format":
      {"type": "json_schema", "json_schema": {"name": "schema", "\u0073chema": {"properties": {"b": {}, "a": {}}} }}})";
  const auto request = ChatOf(text);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompts.at(0).grammar().json_schema(), R"({"properties": {"b": {}, "a": {}}})");
}

TEST(TranslateCompletion, WhatIsWrongWithAFormatIsNamed) {
  EXPECT_EQ(Refused(R"("response_format": 1)"), "response_format/");
  EXPECT_EQ(Refused(R"("response_format": {"type": "grammar"})"), "response_format.type/unsupported_parameter");
  EXPECT_EQ(Refused(R"("response_format": {"type": "json_schema"})"), "response_format.json_schema/");
  EXPECT_EQ(Refused(R"("response_format": {"type": "json_object", "x": 1})"), "response_format.x/unknown_parameter");
  const std::string named = R"("response_format": {"type": "json_schema", "json_schema": )";
  EXPECT_EQ(Refused(named + R"({"schema": {}}})"), "response_format.json_schema.name/");
  EXPECT_EQ(Refused(named + R"({"name": "n"}})"), "response_format.json_schema.schema/");
  EXPECT_EQ(Refused(named + R"({"name": "n", "schema": {"not": {}}}})"), "response_format.json_schema.schema/");
  EXPECT_EQ(Refused(R"("structured_outputs": {"grammar": "x"})"), "structured_outputs.grammar/unsupported_parameter");
  EXPECT_EQ(Refused(R"("structured_outputs": {"regex": 1})"), "structured_outputs.regex/");
  EXPECT_EQ(Refused(R"("guided_choice": ["a", 1])"), "guided_choice[1]/");
  EXPECT_EQ(Refused(R"("guided_choice": ["a"], "guided_regex": "a")"), "guided_choice/");
}

TEST(TranslateCompletion, WhatIsWrongIsNamed) {
  EXPECT_EQ(Refused(R"("n": 1000000)"), "n/");
  EXPECT_EQ(Refused(R"("max_tokens": 9223372036854775808)"), "max_tokens/");
  EXPECT_EQ(Refused(R"("seed": 1.5)"), "seed/");
  EXPECT_EQ(Refused(R"("temperature": 1e300)"), "temperature/");
  EXPECT_EQ(Refused(R"("stop": ["a", 1])"), "stop[1]/");
  EXPECT_EQ(Refused(R"("logit_bias": {"x": 1})"), "logit_bias/");
  EXPECT_EQ(Refused(R"("stream_options": {})"), "stream_options/");
  EXPECT_EQ(Refused(R"("stream": true, "stream_options": {"x": 1})"), "stream_options.x/unknown_parameter");
  EXPECT_EQ(Refused(R"("tools": [{"type": "function"}])"), "tools/unsupported_parameter");
  EXPECT_EQ(Refused(R"("tool_choice": "auto")"), "tool_choice/unsupported_parameter");
  EXPECT_EQ(Refused(R"("tool_choice": {"type": "function"})"), "tool_choice/");
  EXPECT_EQ(Refused(R"("suffix": "x")"), "suffix/unsupported_parameter");
  EXPECT_EQ(Refused(R"("best_of": 4)"), "best_of/unsupported_parameter");
  EXPECT_EQ(Refused(R"("chat_template": "x")"), "chat_template/unsupported_parameter");
  EXPECT_EQ(Refused(R"("surprise": 1)"), "surprise/unknown_parameter");
}

TEST(TranslateCompletion, WhatAsksForNothingPasses) {
  Completion(
      R"({"prompt": "a", "user": "u", "metadata": {"a": 1}, "store": false, "service_tier": "auto", "tools": [],
      "tool_choice": "none", "parallel_tool_calls": true, "functions": null,
      "response_format": {"type": "text"}, "suffix": "", "surprise": null, "stop": null, "stop_token_ids": []})");
}

TEST(TranslateInvocation, IsAChatWhereThereAreMessages) {
  const std::string chat = R"({"messages": [{"role": "user", "content": "a"}]})", text = R"({"prompt": "a"})";
  EXPECT_TRUE(TranslateInvocation(Body(chat), chat, {})->chat);
  EXPECT_FALSE(TranslateInvocation(Body(text), text, {})->chat);
}

TEST(TranslateTokenize, TextOrMessages) {
  EXPECT_EQ(TokenizeOf(R"({"prompt": "a"})")->text(), "a");
  EXPECT_FALSE(TokenizeOf(R"({"prompt": "a"})")->without_bos());
  EXPECT_TRUE(TokenizeOf(R"({"prompt": "a", "add_special_tokens": false})")->without_bos());
  EXPECT_EQ(TokenizeOf(R"({"messages": [{"role": "user", "content": "a"}]})")->chat().messages_size(), 1);
  EXPECT_FALSE(TokenizeOf("{}").ok());
  EXPECT_FALSE(TokenizeOf(R"({"prompt": "a", "messages": []})").ok());
  EXPECT_THAT(TranslateDetokenize(Body(R"({"tokens": [1, 2]})"))->ids(), ElementsAre(1, 2));
  for (const auto& [body, param] : {std::pair(R"({"tokens": [-1]})", "tokens[0]"),
                                    std::pair(R"({"tokens": "a"})", "tokens"), std::pair("{}", "tokens")}) {
    const ApiError error = ToApiError(TranslateDetokenize(Body(body)).status());
    EXPECT_EQ(error.param, param);
    EXPECT_THAT(error.message, StartsWith(absl::StrCat(param, ": ")));
  }
}

}  // namespace
}  // namespace conclave
