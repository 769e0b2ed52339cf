#include "moe/grammar/json_schema.h"

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/grammar/automaton.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool Accepts(const GrammarProgram& program, absl::string_view text) {
  GrammarAutomaton automaton(program);
  int32_t state = automaton.start();
  for (size_t i = 0; i < text.size() && state >= 0; ++i) state = automaton.Step(state, static_cast<uint8_t>(text[i]));
  return state >= 0 && automaton.Accepts(state);
}

void Expect(const std::string& schema, const std::vector<std::string>& texts, const std::vector<std::string>& others) {
  const auto program = CompileJsonSchema(schema);
  ASSERT_TRUE(program.ok()) << program.status() << " " << schema;
  for (const std::string& text : texts) EXPECT_TRUE(Accepts(*program, text)) << text << " of " << schema;
  for (const std::string& text : others) EXPECT_FALSE(Accepts(*program, text)) << text << " of " << schema;
}

std::string RefusalOf(const std::string& schema) {
  const auto program = CompileJsonSchema(schema);
  EXPECT_EQ(program.status().code(), absl::StatusCode::kInvalidArgument) << schema;
  return std::string(program.status().message());
}

TEST(CompileJsonSchema, AgreesWithPythonsJsonschema) {
  const auto cases = nlohmann::json::parse(ReadAll("moe/grammar/testdata/schemas.json"));
  ASSERT_GT(cases.size(), 50u);
  for (const auto& one : cases) Expect(one["schema"], one["valid"], one["invalid"]);
}

TEST(CompileJsonSchema, MembersComeInTheirOrder) {
  const std::string schema = R"({"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "null"}},
                                 "required": ["b"]})";
  Expect(schema, {R"({"b":1})", R"({"b": 1, "a": null})", "{\n  \"b\": 1,\n  \"a\": null\n}"},
         {R"({"a":null,"b":1})", R"({"a":null})", R"({"b":1,"c":2})", R"({"b":1,})", R"({"b":1)", R"({"b" :1})",
          R"({"b":  1})", R"({"b":1} )", R"( {"b":1})"});
}

TEST(CompileJsonSchema, OtherMembersComeWhereTheyAreAskedForAndNeverTwice) {
  Expect(R"({"properties": {"ab": {"type": "integer"}, "é": true}, "additionalProperties": {"type": "string"}})",
         {R"({})", R"({"ab":1,"a":"x","abc":"y","è":""})", R"({"x":"1"})", R"({"é":[]})"},
         {R"({"ab":"x"})", R"({"x":1})", R"({"x":"1","ab":1})", R"({"ab":1,"ab":"2"})", R"({"\u0061b":"x"})"});
  Expect(R"({"type": "object"})", {R"({})", R"({"a":{"b":[1,"x",null]}})"}, {R"([])", R"({"a"})"});
  Expect(R"({"type": "object", "required": ["a"]})", {R"({"a":1})", R"({"a":1,"b":2})"}, {R"({})", R"({"b":2})"});
  Expect(R"({"type": "object", "properties": {}})", {"{}"}, {R"({"a":1})"});
}

TEST(CompileJsonSchema, NumbersHaveAnEnd) {
  Expect(R"({"type": "integer"})", {"0", "-7", "123456789012345678"}, {"01", "1.0", "1234567890123456789", "+1", "-"});
  Expect(R"({"type": "number"})", {"0.5", "-1e-7", "2.50E+10", "3"}, {".5", "1.", "1e999", "NaN", "1e"});
  Expect(R"({"type": "integer", "minimum": -12, "maximum": 105})", {"-12", "-1", "0", "99", "100", "105"},
         {"-13", "106", "200", "-0", "1000", "1e1"});
  Expect(R"({"type": "integer", "exclusiveMinimum": 0})", {"1", "10", "999999999999999999"}, {"0", "-1"});
  Expect(R"({"type": "number", "minimum": 0, "exclusiveMaximum": 1})", {"0", "0.0", "0.99"},
         {"1", "1.0", "-0.1", "-0"});
  Expect(R"({"type": "number", "exclusiveMinimum": -2, "maximum": -1})", {"-1.99", "-1"}, {"-2", "-2.0", "-0.9", "0"});
}

TEST(CompileJsonSchema, StringsAreWholeCharacters) {
  Expect(R"({"type": "string"})", {R"("")", R"("é日😀")", R"("\n\"\\\/\u00e9")", R"("\ud83d\ude00")"},
         {"\"\n\"", R"("\ud83d")", R"("\ude00")", R"("\x41")", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"\xff\""});
  Expect(R"({"type": "string", "minLength": 2, "maxLength": 3})", {R"("ab")", R"("é\n日")", R"("\ud83d\ude00x")"},
         {R"("a")", R"("abcd")", R"("\ud83d\ude00")"});
  Expect(R"({"type": "string", "pattern": "^a+\"?$"})", {R"("a")", R"("aaa\"")"}, {R"("")", R"("a"")", R"("ab")"});
  Expect(R"({"type": "string", "pattern": "b"})", {R"("b")", R"("xby")"}, {R"("a")"});
  Expect(R"({"type": "string", "format": "date"})", {R"("2024-02-29")", R"("2026-11-30")"},
         {R"("2023-02-29")", R"("1900-02-29")", R"("2026-11-31")", R"("2026-13-01")"});
}

TEST(CompileJsonSchema, ListsOfTypesConstantsAndUnions) {
  Expect(R"({"type": ["string", "null"], "maxLength": 1})", {"null", R"("a")"}, {R"("ab")", "1"});
  Expect(R"({"enum": ["a", "ab", 1, 1.50, null, {"x": [true]}]})",
         {R"("a")", R"("ab")", "1", "1.50", R"({"x":[true]})"}, {R"("abc")", "1.5", R"({"x": [true]})"});
  Expect(R"({"type": "integer", "enum": ["a", 1]})", {"1"}, {R"("a")"});
  Expect(R"({"anyOf": [{"const": "x"}, {"oneOf": [{"type": "boolean"}, {"allOf": [{"type": "null"}]}]}]})",
         {R"("x")", "true", "null"}, {"1"});
}

TEST(CompileJsonSchema, RecursiveSchemasEndWithinTheDepth) {
  const std::string schema = R"({"$ref": "#/$defs/n~1x", "$defs": {"n/x": {"type": "object", "properties": {
      "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n~1x"}]}}, "required": ["next"]}}})";
  Expect(schema, {R"({"next":null})", R"({"next":{"next":{"next":null}}})"}, {R"({"next":{}})", "null"});
  // However a text goes on, it can be ended: nothing is opened that could not be closed.
  std::string text, end;
  for (int i = 0; i < 1000; ++i) text += R"({"next":)";
  const auto program = CompileJsonSchema(schema);
  ASSERT_TRUE(program.ok());
  GrammarAutomaton automaton(*program);
  int32_t state = automaton.start();
  size_t taken = 0;
  for (int32_t next = state; taken < text.size() && next >= 0; ++taken) {
    state = next;
    next = automaton.Step(state, static_cast<uint8_t>(text[taken]));
  }
  EXPECT_GT(taken, 8u * 60);
  EXPECT_LT(taken, text.size());
  for (const char c : std::string("null")) state = automaton.Step(state, static_cast<uint8_t>(c));
  EXPECT_GE(state, 0);
  EXPECT_THAT(RefusalOf(R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})"),
              HasSubstr("no answer can satisfy it"));
  EXPECT_THAT(RefusalOf(R"({"$ref": "#"})"), HasSubstr("no answer can satisfy it"));
}

TEST(CompileJsonSchema, NamesWhatIsNotSupportedByItsPointer) {
  const struct {
    const char* schema;
    const char* pointer;
  } cases[] = {
      {R"({"properties": {"a/b": {"type": "array", "uniqueItems": true}}})", "#/properties/a~1b/uniqueItems: "},
      {R"({"not": {}})", "#/not: "},
      {R"({"items": {"multipleOf": 2}})", "#/items/multipleOf: "},
      {R"({"patternProperties": {}})", "#/patternProperties: "},
      {R"({"type": "strng"})", "#/type: "},
      {R"({"anyOf": [{}, {"type": "string", "format": "iri"}]})", "#/anyOf/1/format: "},
      {R"({"anyOf": [{}], "type": "object"})", "#/type: "},
      {R"({"allOf": [{}, {}]})", "#/allOf: "},
      {R"({"minimum": 0.5})", "#/minimum: "},
      {R"({"type": "string", "minLength": -1})", "#/minLength: "},
      {R"x({"type": "string", "pattern": "(?=a)"})x", "#/pattern: "},
      {R"x({"type": "string", "pattern": "(a"})x", "#/pattern: "},
      {R"({"$ref": "#/$defs/none"})", "#/$ref: "},
      {R"({"$ref": "https://example.com"})", "#/$ref: "},
      {R"({"properties": {"a": 1}})", "#/properties/a: "},
      {R"({"properties": {"a": {}}, "required": ["b"], "additionalProperties": false})", "#/required: "},
      {R"({"enum": []})", "#/enum: "},
      {R"({"type": "string", "enum": [1]})", "#/type: "},
      {R"({"a": 1, "a": 2})", "#: "},
      {"{", "#: "},
      {"", "#: "}};
  for (const auto& [schema, pointer] : cases) EXPECT_THAT(RefusalOf(schema), StartsWith(pointer)) << schema;
}

TEST(CompileJsonSchema, HostileSchemasAreBounded) {
  EXPECT_THAT(RefusalOf(std::string(kSchemaBytesMax + 1, ' ')), HasSubstr("bytes"));
  std::string deep = "true";
  for (int i = 0; i < 5000; ++i) deep = absl::StrCat(R"({"items":)", deep, "}");
  EXPECT_THAT(RefusalOf(deep), HasSubstr("deeper"));
  // Texts of a large enum that begin alike are one path.
  std::vector<std::string> words;
  for (int i = 0; i < 4000; ++i) words.push_back(absl::StrCat("\"", std::string(8, 'a' + i % 20), i, "\""));
  Expect(absl::StrCat(R"({"enum": [)", absl::StrJoin(words, ","), "]}"), {words[3999]}, {R"("a")"});
  std::vector<std::string> properties;
  for (int i = 0; i < 500; ++i) properties.push_back(absl::StrCat("\"", i, "\":{}"));
  const std::string many = absl::StrCat(R"({"properties": {)", absl::StrJoin(properties, ","), "}}");
  Expect(many, {R"({"7":1,"499":2})"}, {R"({"499":1,"7":2})"});
  EXPECT_THAT(RefusalOf(absl::StrCat(R"({"properties": {"x":{},)", absl::StrJoin(properties, ","), "}}")),
              HasSubstr("at most 500"));
  // Each schema under way has its pointer: many below a long name would be memory without an end.
  const std::string name(60000, 'n');
  EXPECT_THAT(RefusalOf(absl::StrCat(R"({"properties": {")", name, R"(": {"anyOf": [{}, {}]}}})")), HasSubstr("names"));
}

}  // namespace
}  // namespace conclave
