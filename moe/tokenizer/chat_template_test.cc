#include "moe/tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

using nlohmann::json;

std::string ReadAll(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream) << path;
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> FromSource(const std::string& source) {
  const json config = {{"bos_token", "<BOS>"}, {"eos_token", {{"content", "<EOS>"}}}, {"chat_template", source}};
  return ChatTemplate::LoadFromJson(config.dump());
}

std::string Joined(const std::vector<PromptPiece>& pieces) {
  std::string text;
  for (const PromptPiece& piece : pieces) text += piece.text;
  return text;
}

absl::StatusOr<std::string> Rendered(const std::string& source, const std::vector<ChatTurn>& turns) {
  const auto chat = FromSource(source);
  if (!chat.ok()) return chat.status();
  const auto pieces = (*chat)->Render(turns, /*add_generation_prompt=*/true);
  if (!pieces.ok()) return pieces.status();
  return Joined(*pieces);
}

const std::vector<ChatTurn>& Question() {
  static const auto& turns = *new std::vector<ChatTurn>{{"user", "Hi"}};
  return turns;
}

// The expected texts come from Jinja, set up as transformers does.
TEST(ChatTemplateTest, AgreesWithJinja) {
  const json file = json::parse(ReadAll("moe/tokenizer/testdata/jinja_cases.json"));
  std::vector<ChatTurn> turns;
  for (const json& turn : file["turns"]) turns.push_back({turn[0], turn[1]});
  ASSERT_GT(file["cases"].size(), 200u);
  for (const json& test_case : file["cases"]) {
    const auto text = Rendered(test_case[0], turns);
    ASSERT_TRUE(text.ok()) << test_case[0] << ": " << text.status();
    EXPECT_EQ(*text, std::string(test_case[1])) << test_case[0];
  }
}

// Written for this test with the means that DeepSeek's templates use.
constexpr char kDeepSeekLike[] =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(system='', first=true, after_user=false) %}"
    "{%- for m in messages %}{%- if m['role'] == 'system' %}"
    "{%- if ns.first %}{% set ns.system = ns.system + m['content'] %}{% set ns.first = false %}"
    "{%- else %}{% set ns.system = ns.system + '\\n\\n' + m['content'] %}{%- endif %}{%- endif %}{%- endfor %}"
    "{{ bos_token }}{{ ns.system }}"
    "{%- for m in messages %}"
    "{%- if m['role'] == 'user' %}{%- set ns.after_user = true -%}{{'<User>' + m['content']}}{%- endif %}"
    "{%- if m['role'] == 'assistant' and m['tool_calls'] is defined and m['tool_calls'] is not none %}"
    "{{- m.tool_calls | tojson -}}{%- endif %}"
    "{%- if m['role'] == 'assistant' and (m['tool_calls'] is not defined or m['tool_calls'] is none) %}"
    "{%- if ns.after_user %}{{'<Assistant></think>'}}{%- endif %}{%- set ns.after_user = false -%}"
    "{%- set content = m['content'] -%}{%- if '</think>' in content %}"
    "{%- set content = content.split('</think>', 1)[1] -%}{%- endif %}{{content + '<EOS>'}}{%- endif %}"
    "{%- endfor -%}{%- if add_generation_prompt and ns.after_user %}{{'<Assistant></think>'}}{% endif %}";

TEST(ChatTemplateTest, RendersTheDeepSeekFamily) {
  const std::vector<ChatTurn> turns = {{"system", "Be brief."},
                                       {"user", "2+2?"},
                                       {"assistant", "<think>easy</think>4"},
                                       {"system", "And kind."},
                                       {"user", "3+3?"}};
  EXPECT_EQ(Rendered(kDeepSeekLike, turns).value(),
            "<BOS>Be brief.\n\nAnd kind.<User>2+2?<Assistant></think>4<EOS><User>3+3?<Assistant></think>");
}

// Written for this test with the means that Kimi's templates use.
constexpr char kKimiLike[] =
    "{%- macro content_of(msg) -%}\n  {%- set c = msg.get('content') -%}\n  {%- if c is string -%}\n    {{ c }}\n"
    "  {%- elif c is not none -%}\n    {% for part in c -%}{{ part['text'] }}{%- endfor -%}\n  {%- endif -%}\n"
    "{%- endmacro -%}\n"
    "{% macro head(message) -%}\n  {%- set name = message.get('name') or message['role'] -%}\n"
    "  <|{{ 'user' if message.role == 'user' else 'system' }}|>{{name}}<|middle|>\n{%- endmacro -%}\n"
    "{%- set ns = namespace(last=-1) -%}\n"
    "{%- for i in range(messages|length-1, -1, -1) -%}\n"
    "  {%- if messages[i]['role'] == 'assistant' and not messages[i].get('tool_calls') and ns.last == -1 -%}\n"
    "    {%- set ns.last = i -%}\n  {%- endif -%}\n{%- endfor -%}\n"
    "{# history and the rest #}\n"
    "{%- set history = messages[:ns.last+1] -%}\n{%- set rest = messages[ns.last+1:] -%}\n"
    "{%- if messages|length == 0 or messages[0]['role'] != 'system' -%}\n  <|system|>default<|end|>\n{%- endif -%}\n"
    "{%- for message in history -%}\n  {{head(message)}}H:{{content_of(message)}}<|end|>\n{%- endfor -%}\n"
    "{%- for message in rest -%}\n  {{head(message)}}\n  {%- if message['role'] == 'tool' -%}\n    ## Tool\n"
    "  {%- else -%}\n    {{content_of(message)}}\n  {%- endif -%}\n  <|end|>\n{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n  <|system|>assistant<|middle|>\n{%- endif -%}\n";

TEST(ChatTemplateTest, RendersTheKimiFamily) {
  const std::vector<ChatTurn> turns = {{"user", "a"}, {"assistant", "b"}, {"user", " c "}};
  EXPECT_EQ(Rendered(kKimiLike, turns).value(),
            "<|system|>default<|end|><|user|>user<|middle|>H:a<|end|><|system|>assistant<|middle|>H:b<|end|>"
            "<|user|>user<|middle|> c <|end|><|system|>assistant<|middle|>");
  EXPECT_EQ(Rendered(kKimiLike, {{"user", "a", "Ann"}}).value(),
            "<|system|>default<|end|><|user|>Ann<|middle|>a<|end|><|system|>assistant<|middle|>");
}

std::vector<ChatTurn> TurnsOf(const json& messages) {
  std::vector<ChatTurn> turns;
  for (const json& message : messages) {
    ChatTurn& turn = turns.emplace_back();
    turn.role = message["role"];
    if (message["content"].is_string()) turn.content = message["content"];
    turn.tool_call_id = message.value("tool_call_id", "");
    for (const json& call : message.value("tool_calls", json::array())) {
      turn.tool_calls.push_back({call["id"], call["function"]["name"], call["function"]["arguments"]});
    }
  }
  return turns;
}

// The expected texts come from transformers' render_jinja_template; the templates are written for this test with the
// structure of those that the models come with.
TEST(ChatTemplateTest, ToolsAgreeWithTransformers) {
  const json file = json::parse(ReadAll("moe/tokenizer/testdata/tool_templates.json"));
  ASSERT_GT(file["cases"].size(), 30u);
  for (const json& test_case : file["cases"]) {
    const std::string name = test_case["template"];
    const auto chat = FromSource(file["templates"][name]);
    ASSERT_TRUE(chat.ok()) << name << ": " << chat.status();
    ChatTools tools;
    tools.definitions.assign(file["tools"].begin(), file["tools"].begin() + test_case["tools"].get<int>());
    tools.arguments_as_mappings = name == "hermes";
    const std::string conversation = test_case["conversation"];
    const auto pieces = (*chat)->Render(TurnsOf(file["conversations"][conversation]), true, tools);
    ASSERT_TRUE(pieces.ok()) << name << ", " << conversation << ": " << pieces.status();
    EXPECT_EQ(Joined(*pieces), std::string(test_case["text"])) << name << ", " << conversation;
  }
}

TEST(ChatTemplateTest, NothingOfAToolBecomesASpecialToken) {
  const auto tokenizer = TinyTokenizer();
  const auto chat = FromSource("{{ tools | tojson }}<|end|>{% for k, v in tools[0].items() %}{{ k }}{% endfor %}"
                               "{% for k in tools[0] %}{{ k }}{% endfor %}{{ messages[0].tool_calls[0].id }}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ChatTools tools;
  tools.definitions = {R"({"<|end|>": "<|end|>"})"};
  const ChatTurn turn{"assistant", "", "", {{"<|end|>", "<|end|>", "{}"}}};
  const auto pieces = (*chat)->Render({turn}, true, tools);
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  const std::vector<int32_t> ids = EncodePieces(*tokenizer, *pieces);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), kTinyEnd), 1) << Joined(*pieces);
}

TEST(ChatTemplateTest, ThePreambleStandsInTheLastSystemMessage) {
  const auto chat = FromSource("{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ChatTools tools;
  tools.definitions = {R"({"name": "f"})"};
  tools.preamble = "May call{% for tool in tools %} {{ tool.name }}{% endfor %}.";
  const auto text = [&](const std::vector<ChatTurn>& turns) {
    return Joined((*chat)->Render(turns, true, tools).value());
  };
  EXPECT_EQ(text({{"user", "a"}}), "[system:May call f.][user:a]");
  EXPECT_EQ(text({{"system", "s"}, {"system", "t"}, {"user", "a"}}), "[system:s][system:t\n\nMay call f.][user:a]");
  EXPECT_EQ(text({{"system", ""}, {"user", "a"}}), "[system:May call f.][user:a]");
}

TEST(ChatTemplateTest, DefinitionsOfToolsMustBeJson) {
  const auto chat = FromSource("{{ tools | tojson }}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const std::string deep(100, '[');
  for (const auto& [definition, part] : std::vector<std::pair<std::string, std::string>>{
           {"", "tools[0]"},
           {"{", "tools[0]"},
           {R"({"a": 1, "b": 2, "a": 3})", "'a' stands twice"},
           {"1 2", "tools[0]"},
           {deep, "nested deeper than 64"},
           {std::string("1\0", 2), "zero byte"},
           {"\"\xFF\"", "UTF-8"}}) {
    ChatTools tools;
    tools.definitions = {definition};
    const absl::Status status = (*chat)->Render(Question(), true, tools).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << definition;
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << status << " should say " << part;
  }
  // Work is linear in the keys of one object.
  std::string wide = "{";
  for (int i = 0; i < 200'000; ++i) absl::StrAppend(&wide, i == 0 ? "" : ",", "\"k", i, "\":0");
  ChatTools tools;
  tools.definitions = {wide + "}"};
  EXPECT_TRUE((*chat)->Render(Question(), true, tools).ok());
}

TEST(ChatTemplateTest, KeysOfToolsAreSortedWhereTheModelsOwnCodeSortsThem) {
  const std::string directory = FreshDirectory("chat_template_sort_test");
  std::ofstream(directory + "/chat_template.jinja") << "{{ tools | tojson(separators=(',', ':')) }}";
  ChatTools tools;
  tools.definitions = {R"({"b": {"z": 1, "é": 2, "a": [{"d": 1, "c": 2}]}, "B": 0})"};
  EXPECT_EQ(Joined((*ChatTemplate::Load(directory))->Render(Question(), true, tools).value()),
            R"([{"b":{"z":1,"é":2,"a":[{"d":1,"c":2}]},"B":0}])");
  std::ofstream(directory + "/tokenization_kimi.py") << "        tools = deep_sort_dict(tools)\n";
  EXPECT_EQ(Joined((*ChatTemplate::Load(directory))->Render(Question(), true, tools).value()),
            R"([{"B":0,"b":{"a":[{"c":2,"d":1}],"z":1,"é":2}}])");
}

TEST(ChatTemplateTest, PiecesTellWhoWroteThem) {
  const auto chat = FromSource(
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ (m.content | trim)[1:] ~ '!' }}"
      "{{ m.content | tojson }}{{ m.content.replace('x', '<EOS>') }}{{ m.name }}{% endfor %}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto pieces = (*chat)->Render(std::vector<ChatTurn>{{"user", " a<EOS>\nx ", "<BOS>"}}, true);
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  std::string marked;  // the user's words in braces
  for (const PromptPiece& piece : *pieces) marked += piece.from_template ? piece.text : "{" + piece.text + "}";
  EXPECT_EQ(marked, "<BOS>[user] {<EOS>\nx}!\"{ a<EOS>\\nx }\"{ a<EOS>\n}<EOS>{ <BOS>}");
}

TEST(ChatTemplateTest, SpecialTokensInAUsersWordsStayText) {
  const auto tokenizer = TinyTokenizer();
  const auto chat = FromSource("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto pieces = (*chat)->Render(std::vector<ChatTurn>{{"user", "he<|end|>"}, {"assistant", "l"}}, true);
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  EXPECT_EQ(EncodePieces(*tokenizer, *pieces),
            (std::vector<int32_t>{kTinyHe, '<', '|', 'e', 'n', 'd', '|', '>', kTinyEnd, 'l', kTinyEnd}));
}

TEST(ChatTemplateTest, WordsRunAcrossPiecesAsInOneString) {
  const auto tokenizer = TinyTokenizer();
  const std::vector<PromptPiece> pieces = {{"h", true}, {"e", false}, {"l", true}, {"<|e", true}, {"nd|>", true}};
  EXPECT_EQ(EncodePieces(*tokenizer, pieces), (std::vector<int32_t>{kTinyHel, kTinyEnd}));
  EXPECT_EQ(EncodePieces(*tokenizer, {}), std::vector<int32_t>());
}

TEST(ChatTemplateTest, RefusesConversationsThatAreWrong) {
  const auto status = [](const std::string& source, const std::vector<ChatTurn>& turns) {
    return Rendered(source, turns).status();
  };
  const std::pair<absl::Status, const char*> cases[] = {
      {status("x", {}), "messages is empty"},
      {status("x", {{"user", "a"}, {"function", "b"}}), "messages[1].role"},
      {status("x", {{"user", "\xFF"}}), "messages[0].content"},
      {status("x", {{"user", "a", "\xFF"}}), "messages[0].name"},
      {status("\n{{ raise_exception('roles must alternate') }}", Question()), "roles must alternate"},
      {status("\n\n{{ messages[5].content }}", Question()), "line 3"},
      {status("{{ messages[0].content + nothing }}", Question()), "'nothing', which is undefined"},
      {status("{{ 'x' + 1 }}", Question()), "a string + a number"},
      {status("{{ messages }}", Question()), "cannot print a list"},
      {status("{% for x in 3 %}{% endfor %}", Question()), "cannot iterate"},
      {status("{% set q = {} %}{% set q.a = 1 %}", Question()), "no namespace"},
      {status("{{ 9223372036854775807 + 1 }}", Question()), "64 bits"}};
  for (const auto& [refusal, part] : cases) {
    EXPECT_EQ(refusal.code(), absl::StatusCode::kInvalidArgument) << part;
    EXPECT_TRUE(absl::StrContains(refusal.message(), part)) << refusal << " should say " << part;
  }
}

TEST(ChatTemplateTest, RefusesAtLoadWhatItCannotRun) {
  const std::pair<const char*, const char*> cases[] = {
      {"\n{{ x | sum }}", "line 2: the filter 'sum'"},
      {"{{ x is callable }}", "the test 'callable'"},
      {"\n\n{{ strftime_now('%Y') }}", "line 3: the function 'strftime_now'"},
      {"{{ x.encode('utf-8') }}", "the method 'encode'"},
      {"{{ x | tojson(sort_keys=true) }}", "'sort_keys'"},
      {"{{ x | trim(1, 2) }}", "2 arguments"},
      {"{% include 'other' %}", "{% include %}"},
      {"{% call f() %}{% endcall %}", "{% call %}"},
      {"{% raw %}{% endraw %}", "raw"},
      {"{% for x in y recursive %}{% endfor %}", "recursive"},
      {"{% for x in y %}", "endfor"},
      {"{% if x %}{% endfor %}", "endfor"},
      {"{% break %}", "outside a loop"},
      {"{{ x ** 2 }}", "**"},
      {"{{ x", "not closed"},
      {"{{ 'x }}", "not closed"},
      {"{# x", "not closed"},
      {"{{ x y }}", "'y'"},
      {"{{ (x }}", "unexpected '}'"},
      {"{{ $ }}", "'$'"},
      {"{{ }}", "}}"},
      {"{{ 99999999999999999999 }}", "number"},
      {"{{ '\\ud800' }}", "escape"},
      {"{{ f(*x) }}", "*"},
      {"{{ self.x }}", "'self'"}};
  for (const auto& [source, part] : cases) {
    const absl::Status status = FromSource(source).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << status << " should say " << part;
    EXPECT_TRUE(absl::StartsWith(status.message(), "tokenizer_config.json: chat_template, line ")) << status;
  }
}

std::string Times(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

TEST(ChatTemplateTest, NestingIsBoundedAtLoad) {
  for (const std::string& source :
       {"{{ " + Times("(", 100000), "{{ " + Times("-", 100000) + "1 }}", "{{ 1" + Times(" + 1", 100000) + " }}",
        Times("{% if 1 %}", 20000), "{{ x" + Times("[x", 100000) + " }}", "{{ x" + Times(".a", 100000) + " }}",
        "{{ " + Times("not ", 100000) + " 1 }}", "{{ 1" + Times(" if 1 else 1", 40000),
        "{{ x" + Times("|trim", 90000) + " }}", "{{ [" + Times("1,", 90000) + "] }}", std::string(1 << 20, 'x')}) {
    EXPECT_EQ(FromSource(source).status().code(), absl::StatusCode::kInvalidArgument) << source.substr(0, 40);
  }
}

TEST(ChatTemplateTest, WorkIsBoundedWhenItRuns) {
  const std::string deep =
      "{% set ns = namespace(x=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  for (const std::string& source :
       {std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), std::string("{{ range(10000000) | length }}"),
        std::string("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"),
        std::string("{% set ns = namespace(x='abcdefgh') %}"
                    "{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"),
        deep + "{{ ns.x | tojson }}", std::string("{{ 'ab' * 1000000000000 }}"),
        std::string("{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}")}) {
    const absl::Status status = Rendered(source, Question()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << source;
  }
  // Comparing such a thing ends too.
  EXPECT_TRUE(Rendered(deep + "{% set a = ns.x %}" + deep + "{{ a == ns.x }}", Question()).ok());
}

TEST(ChatTemplateTest, LongConversationsAreWithinTheBounds) {
  std::vector<ChatTurn> turns;
  for (int i = 0; i < 1000; ++i) turns.push_back({i % 2 == 0 ? "user" : "assistant", std::string(4096, 'x')});
  EXPECT_TRUE(Rendered(kDeepSeekLike, turns).ok());
  EXPECT_TRUE(Rendered(kKimiLike, turns).ok());
  EXPECT_TRUE(Rendered(kDeepSeekLike, {{"user", std::string(16 << 20, 'x')}}).ok());
}

TEST(ChatTemplateTest, TheFileOfItsOwnGoesFirst) {
  const std::string directory = FreshDirectory("chat_template_test");
  EXPECT_EQ(ChatTemplate::Load(directory + "/nowhere").status().code(), absl::StatusCode::kNotFound);
  std::ofstream(directory + "/tokenizer_config.json") << R"({"chat_template": [
      {"name": "tool_use", "template": "t"}, {"name": "default", "template": "from the configuration"}]})";
  EXPECT_EQ(Joined((*ChatTemplate::Load(directory))->Render(Question(), true).value()), "from the configuration");
  std::ofstream(directory + "/chat_template.jinja") << "from the file\n";
  EXPECT_EQ(Joined((*ChatTemplate::Load(directory))->Render(Question(), true).value()), "from the file");
}

// The ids of one prompt of the demo model's reference.
std::vector<int32_t> ReferenceIds(const std::string& safetensors, const std::string& name) {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, safetensors.data(), sizeof(header_bytes));
  const json header = json::parse(safetensors.substr(8, header_bytes));
  const json& offsets = header[name + ".input_ids"]["data_offsets"];
  std::vector<int32_t> ids((offsets[1].get<size_t>() - offsets[0].get<size_t>()) / sizeof(int32_t));
  std::memcpy(ids.data(), safetensors.data() + 8 + header_bytes + offsets[0].get<size_t>(),
              ids.size() * sizeof(int32_t));
  return ids;
}

TEST(ChatTemplateTest, TheDemoModelsPromptsEncodeToItsReferenceIds) {
  const char* shared = std::getenv("CONCLAVE_SHARED_DIR");
  if (shared == nullptr) GTEST_SKIP() << "CONCLAVE_SHARED_DIR is not set";
  const std::string directory = absl::StrCat(shared, "/demo-model");
  const auto tokenizer = Tokenizer::Load(directory);
  const auto chat = ChatTemplate::Load(directory);
  ASSERT_TRUE(tokenizer.ok() && chat.ok()) << tokenizer.status() << chat.status();
  const json prompts = json::parse(ReadAll(directory + "/evaluation.json"))["reference"];
  const std::string reference = ReadAll(directory + "/reference.safetensors");
  ASSERT_EQ(prompts.size(), 6u);
  for (const auto& [name, entry] : prompts.items()) {
    std::vector<int32_t> ids = EncodePrompt(**tokenizer, std::string(entry["prompt"]));
    if (entry["chat"]) {
      const auto pieces = (*chat)->Render(std::vector<ChatTurn>{{"user", entry["prompt"]}}, true);
      ASSERT_TRUE(pieces.ok()) << pieces.status();
      ids = EncodePieces(**tokenizer, *pieces);
    }
    EXPECT_EQ(ids, ReferenceIds(reference, name)) << name;
  }
}

}  // namespace
}  // namespace conclave
