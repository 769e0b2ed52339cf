// OpenAI's API from a client's bytes to an attention service's ids and back.
#include "gateway/http/api_handler.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/cluster/cluster_map.h"
#include "gateway/gateway_fixture_for_test.h"
#include "gateway/http/server.h"
#include "gateway/http/socket_for_test.h"
#include "gateway/tools/tool_support.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// As those of models that always think: the answer begins behind the tag.
class ThinkingTemplate final : public ChatTemplate {
 public:
  absl::StatusOr<std::vector<PromptPiece>> Render(absl::Span<const ChatTurn> turns, bool,
                                                  const ChatTools&) const override {
    return std::vector<PromptPiece>{{turns.back().content, false}, {"<think>\n", true}};
  }
  absl::string_view source() const override { return "<think>"; }
};

class ApiHandlerTest : public GatewayTest {
 protected:
  void Serve() {
    api_ = ApiHandler::Create(options_, *metrics_);
    const std::vector<std::string> routers{router_.address};
    cluster_ = ClusterMap::Create({model_->name, 1}, ClusterProbe::Create([routers] { return routers; }, nullptr));
    api_->SetServing(dispatcher_, *model_, authenticator_, *cluster_);
    auto server = HttpServer::Listen(options_, *api_);
    ASSERT_TRUE(server.ok()) << server.status();
    http_ = *std::move(server);
    http_->Start();
  }

  // The answer of the service: each piece is a message, and each of its bytes an id.
  void Says(const std::vector<std::string>& pieces, const std::string& finish = "stop") {
    router_.Answer([=](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
      for (size_t i = 0; i < pieces.size(); ++i) {
        std::vector<int32_t> ids;
        for (const char byte : pieces[i]) ids.push_back(static_cast<unsigned char>(byte));
        writer->Write(Ids(ids, i + 1 == pieces.size() ? finish : ""));
      }
      return grpc::Status::OK;
    });
  }

  static std::string Post(const std::string& path, const std::string& body) {
    return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: a\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
  }
  static std::string ChatBody(bool stream) {
    return json({{"messages", {{{"role", "user"}, {"content", "?"}}}}, {"max_tokens", 50}, {"stream", stream}}).dump();
  }
  std::string Get(const std::string& path) {
    TestSocket client(http_->address());
    client.Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    return client.ReadUntil("<never>");
  }
  // The message of an answer that comes whole.
  json WholeMessage() {
    TestSocket client(http_->address());
    client.Send(Post("/v1/chat/completions", ChatBody(false)));
    const std::string head = client.ReadUntil("\r\n\r\n");
    EXPECT_THAT(head, StartsWith("HTTP/1.1 200"));
    std::string body = head.substr(head.find("\r\n\r\n") + 4);
    if (body.empty() || body.back() != '}') body += client.ReadUntil("}}");  // "usage", with its details, is the last
    const json answer = json::parse(body.substr(0, body.rfind('}') + 1), nullptr, false);
    EXPECT_FALSE(answer.is_discarded()) << body;
    return answer.is_discarded() ? json() : answer["choices"][0]["message"];
  }
  // What the pieces of a streamed answer come to; each piece is of one kind.
  struct Streamed {
    std::string reasoning, content, finish;
    int pieces = 0;
  };
  Streamed StreamedAnswer() {
    TestSocket client(http_->address());
    client.Send(Post("/v1/chat/completions", ChatBody(true)));
    const std::string text = client.ReadUntil("data: [DONE]");
    Streamed sum;
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      if (line.substr(0, 7) != "data: {") continue;
      const json choice = json::parse(std::string(line.substr(6)))["choices"][0];
      const json& delta = choice["delta"];
      sum.reasoning += delta.value("reasoning_content", "");
      sum.content += delta.value("content", "");
      if (choice["finish_reason"].is_string()) sum.finish += choice["finish_reason"];
      ++sum.pieces;
    }
    return sum;
  }

  HttpOptions options_;
  std::unique_ptr<ApiHandler> api_;
  std::unique_ptr<ClusterMap> cluster_;
  std::unique_ptr<HttpServer> http_;
};

TEST_F(ApiHandlerTest, ThoughtsComeApartWhereverTheTagsAreSplit) {
  options_.reasoning_content = true;
  Serve();
  const std::string text = "<think>I wonder</think>\n\nYes.";
  std::vector<std::string> bytes;
  for (const char byte : text) bytes.push_back(std::string(1, byte));
  for (const auto& pieces : {bytes, {"<thi", "nk>I wo", "nder</th", "ink>\n", "\nYes."}, {text}}) {
    Says(pieces);
    const Streamed streamed = StreamedAnswer();
    EXPECT_EQ(streamed.reasoning, "I wonder");
    EXPECT_EQ(streamed.content, "Yes.");
    EXPECT_EQ(streamed.finish, "stop");
    const json whole = WholeMessage();
    EXPECT_EQ(whole["reasoning_content"], "I wonder");
    EXPECT_EQ(whole["content"], "Yes.");
  }
  Says(bytes);
  EXPECT_GT(StreamedAnswer().pieces, 8) << "thoughts stream as they come";
}

TEST_F(ApiHandlerTest, ATagMayBeATokenAndThoughtsMayNeverEnd) {
  options_.reasoning_content = true;
  Serve();
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    writer->Write(Ids({kTinyThink, 'h', 'm'}));
    writer->Write(Ids({'m', '<', '/'}, "length"));
    return grpc::Status::OK;
  });
  const Streamed streamed = StreamedAnswer();
  EXPECT_EQ(streamed.reasoning, "hmm</");
  EXPECT_EQ(streamed.content, "");
  EXPECT_EQ(streamed.finish, "length");
  EXPECT_EQ(WholeMessage()["reasoning_content"], "hmm</");
}

TEST_F(ApiHandlerTest, WhereThePromptEndsWithTheTagTheAnswerBeginsWithThoughts) {
  options_.reasoning_content = true;
  model_->chat_template = std::make_unique<ThinkingTemplate>();
  Serve();
  Says({"so ", "so</thi", "nk>Well."});
  const Streamed streamed = StreamedAnswer();
  EXPECT_EQ(streamed.reasoning, "so so");
  EXPECT_EQ(streamed.content, "Well.");
}

TEST_F(ApiHandlerTest, WithoutTheFlagThoughtsAreContent) {
  Serve();
  Says({"<think>a</think>b"});
  EXPECT_EQ(StreamedAnswer().content, "<think>a</think>b");
  const json whole = WholeMessage();
  EXPECT_EQ(whole["content"], "<think>a</think>b");
  EXPECT_FALSE(whole.contains("reasoning_content"));
}

// A conversation with a function; `more` are further members of the body.
std::string FunctionBody(const std::string& more) {
  return absl::StrCat(R"({"messages": [{"role": "user", "content": "?"}], "tools": [{"type": "function", "function":
      {"name": "f", "parameters": {"b": 1, "a": 2}}}])", more, "}");
}

class FunctionCallsOverHttpTest : public ApiHandlerTest {
 protected:
  FunctionCallsOverHttpTest() {
    model_->context_max = 4096;
    const std::string source = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}<tool_call>";
    model_->chat_template = *ChatTemplate::LoadFromJson(json({{"chat_template", source}}).dump());
    model_->tools = FindToolSupport(model_->chat_template.get(), *model_->tokenizer, "auto");
    Serve();
  }
  std::string Ask(const std::string& body, const std::string& until) {
    TestSocket client(http_->address());
    client.Send(Post("/v1/chat/completions", body));
    return client.ReadUntil(until);
  }
};

TEST_F(FunctionCallsOverHttpTest, AWholeAnswer) {
  Says({"<tool_call>{\"name\": \"f\", \"argum", "ents\": {\"a\": \"é\"}}</tool_call>"});
  const std::string answer = Ask(FunctionBody(""), "}}}");
  EXPECT_THAT(answer, HasSubstr(R"("message": {"role": "assistant", "content": null, "tool_calls": [{"id": "call_)"));
  EXPECT_THAT(answer, HasSubstr(R"("type": "function", "function": {"name": "f", "arguments": "{\"a\": \"é\"}"}}],)"));
  EXPECT_THAT(answer, HasSubstr(R"("finish_reason": "tool_calls")"));
  std::string prompt;
  const auto requests = router_.requests();
  for (const int32_t id : requests[0].prompt_ids()) prompt += std::string(model_->tokenizer->TokenBytes(id));
  EXPECT_THAT(prompt, StartsWith(R"({"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}})"));
}

TEST_F(FunctionCallsOverHttpTest, AStream) {
  Says({"Hm. ", "<tool_call>{\"name\": \"f\", \"arguments\": ", "{\"a\":", " 1}}</tool_call>"});
  const std::string answer = Ask(FunctionBody(R"(, "stream": true)"), "data: [DONE]");
  size_t at = 0;
  for (const char* part :
       {R"("delta": {"role": "assistant", "content": ""})", R"("delta": {"content": "Hm."})",
        R"("delta": {"tool_calls": [{"index": 0, "id": "call_)",
        R"("type": "function", "function": {"name": "f", "arguments": ""}}]})",
        R"("delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\":"}}]})",
        R"("delta": {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]})",
        R"("finish_reason": "tool_calls")"}) {
    const size_t found = answer.find(part, at);
    ASSERT_NE(found, std::string::npos) << part << " should come behind " << answer.substr(0, at);
    at = found;
  }
}

TEST_F(FunctionCallsOverHttpTest, WhatCannotBeHadIsRefusedByItsOwnCode) {
  const std::string strict = R"([{"type": "function", "function": {"name": "f", "strict": true}}])";
  const std::string answer =
      Ask(absl::StrCat(R"({"messages": [{"role": "user", "content": "?"}], "tools": )", strict, "}"), "}}");
  EXPECT_THAT(answer, HasSubstr(R"("param": "tools[0].function.strict", "code": "unsupported_parameter")"));
}

TEST_F(FunctionCallsOverHttpTest, WhatIsWrongIsNamedAsTheClientKnowsIt) {
  for (const auto& [body, param] : std::vector<std::pair<std::string, std::string>>{
           {FunctionBody(R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})"), "tool_choice"},
           {R"({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]})",
            "tools[0].function"},
           {R"({"messages": [{"role": "user", "content": "?"}], "tool_choice": "required"})", "tool_choice"},
           {R"({"messages": [{"role": "tool", "content": "?"}]})", "messages[0].tool_call_id"}}) {
    const std::string answer = Ask(body, "}}");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 400")) << body;
    EXPECT_THAT(answer, HasSubstr(absl::StrCat("\"param\": \"", param, "\""))) << body;
  }
  EXPECT_TRUE(router_.requests().empty());
}

TEST_F(ApiHandlerTest, WhereServicesAreFullAHeadIsEnoughToRefuseARequest) {
  router_.SetStatus([](v1::GetStatusResponse& status) {
    status.set_requests_running(2);
    status.set_requests_running_max(2);
  });
  Serve();
  ASSERT_TRUE(MetricsCome(absl::StrCat("conclave_gateway_router_load{router=\"", router_.address, "\"} 2")));
  TestSocket client(http_->address());
  client.Send(Post("/v1/chat/completions", ChatBody(false)));
  const std::string refusal = client.ReadUntil("}}");
  EXPECT_THAT(refusal, StartsWith("HTTP/1.1 429"));
  EXPECT_THAT(refusal, HasSubstr("Retry-After: "));
  EXPECT_THAT(refusal, HasSubstr("X-RateLimit-Limit-Name: queue\r\n"));
  // The connection stays: to open another one would cost more than the refusal.
  client.Send(Post("/tokenize", R"({"prompt": "ab"})"));
  EXPECT_THAT(client.ReadUntil("}"), HasSubstr("[97, 98]"));
  // The body of this one never comes.
  TestSocket large(http_->address());
  large.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{");
  EXPECT_THAT(large.ReadUntil("<never>"), StartsWith("HTTP/1.1 429"));
  EXPECT_TRUE(router_.requests().empty());
  EXPECT_EQ(UsageLines(2).size(), 2u);
}

TEST_F(ApiHandlerTest, PromptsThatCanNeverRunTogetherAreNoMatterOfTryingAgain) {
  router_.SetStatus([](v1::GetStatusResponse& status) {
    status.set_requests_queued_max(3);
    status.set_requests_running_max(2);
  });
  Says({"a"});
  Serve();
  std::string answer;
  for (int i = 0; i < 500; ++i, absl::SleepFor(absl::Milliseconds(10))) {
    TestSocket client(http_->address());
    client.Send(Post("/v1/completions", R"({"prompt": ["a", "b", "c"], "n": 2, "max_tokens": 1})"));
    answer = client.ReadUntil("}}");
    if (absl::StrContains(answer, "answers at once")) break;
  }
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(answer, HasSubstr("asks for 6 answers at once; all attention services together take 5"));
}

TEST_F(ApiHandlerTest, ClientsMayTokeniseAndRenderChatsThemselves) {
  model_->tokenizer_config.tokenizer_class = "LlamaTokenizerFast";
  model_->tokenizer_config.eos_token = "<|end|>";
  Serve();
  const std::string answer = Get("/tokenizer_info");
  const size_t body = answer.find("\r\n\r\n") + 4;
  const json said = json::parse(answer.substr(body, answer.rfind('}') + 1 - body));
  EXPECT_EQ(said["tokenizer_class"], "LlamaTokenizerFast");
  EXPECT_EQ(said["eos_token"], "<|end|>");
  EXPECT_TRUE(said["bos_token"].is_null() && said["pad_token"].is_null() && said["unk_token"].is_null());
  EXPECT_EQ(said["add_bos_token"], model_->tokenizer->add_bos());
  EXPECT_EQ(said["model_max_length"], model_->context_max);
  EXPECT_EQ(said["chat_template"], std::string(model_->chat_template->source()));
}

TEST_F(ApiHandlerTest, ATenantSeesTheModelsThatItMayUse) {
  Serve();
  EXPECT_THAT(Get("/v1/models"), HasSubstr("\"id\": \"tiny\""));
  EXPECT_THAT(Get("/tokenizer_info"), StartsWith("HTTP/1.1 200"));
  authenticator_.tenant = std::make_shared<const Tenant>(Tenant{"other", 0, 0, 0, 0, {"large"}, ""});
  EXPECT_THAT(Get("/v1/models"), HasSubstr("\"data\": []"));
  for (const char* path : {"/v1/models/tiny", "/tokenizer_info"}) {
    const std::string one = Get(path);
    EXPECT_THAT(one, StartsWith("HTTP/1.1 404"));
    EXPECT_THAT(one, HasSubstr("model_not_found"));
  }
  TestSocket client(http_->address());
  client.Send(Post("/v1/chat/completions", ChatBody(false)));
  const std::string refusal = client.ReadUntil("}}");
  EXPECT_THAT(refusal, StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(refusal, HasSubstr("permission_denied"));
  EXPECT_TRUE(router_.requests().empty());
}

}  // namespace
}  // namespace conclave
