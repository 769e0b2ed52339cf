#include "gateway/http/format_fields.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gateway/http/json_body.h"
#include "gateway/tools/tool_call_format.h"
#include "moe/grammar/grammar.h"
#include "moe/grammar/grammar_message.h"

namespace conclave {
namespace {

using nlohmann::json;

// Reads fields into one grammar.
class FormatReader {
 public:
  FormatReader(BodyFields& fields, absl::string_view body_text, v1::GenerateRequest& request)
      : fields_(fields), body_text_(body_text), request_(request) {}

  void Read() {
    if (const json* format = fields_.Find("response_format"); format != nullptr) ReadResponseFormat(*format);
    if (const json* outputs = fields_.Find("structured_outputs"); outputs != nullptr) ReadOutputs(*outputs);
    if (const json* schema = fields_.Find("guided_json"); schema != nullptr) SetSchema("guided_json", *schema);
    if (const json* regex = fields_.Find("guided_regex"); regex != nullptr) SetRegex("guided_regex", *regex);
    if (const json* texts = fields_.Find("guided_choice"); texts != nullptr) SetChoices("guided_choice", *texts);
  }

 private:
  void ReadResponseFormat(const json& format) {
    if (!format.is_object()) return fields_.Fail("response_format", "must be an object");
    BodyFields inner(format, "response_format.");
    const std::string type = inner.Text("type").value_or("");
    if (type == "json_schema") {
      const json* named = inner.Find("json_schema");
      if (named == nullptr) inner.Fail("json_schema", "is missing");
      if (named != nullptr) ReadNamedSchema(inner, *named);
    } else if (type == "json_object") {
      Set("response_format")->set_json_object(true);
    } else if (type != "text") {
      inner.FailUnsupported("type", "must be text, json_object or json_schema");
    }
    if (const absl::Status status = inner.Finish(); !status.ok()) fields_.Fail(status);
  }

  void ReadNamedSchema(BodyFields& format, const json& named) {
    if (!named.is_object()) return format.Fail("json_schema", "must be an object");
    BodyFields inner(named, "response_format.json_schema.");
    if (!IsFunctionName(inner.Text("name").value_or(""))) {
      inner.Fail("name", "must be 1 to 64 letters, digits, '_' and '-'");
    }
    inner.Text("description");
    inner.Bool("strict");  // answers always hold to the schema
    const json* schema = inner.Find("schema");
    if (schema == nullptr) inner.Fail("schema", "is missing");
    if (const absl::Status status = inner.Finish(); !status.ok()) return format.Fail(status);
    SetSchema("response_format.json_schema.schema", *schema);
  }

  // vLLM's, of which one may be set.
  void ReadOutputs(const json& outputs) {
    if (!outputs.is_object()) return fields_.Fail("structured_outputs", "must be an object");
    BodyFields inner(outputs, "structured_outputs.");
    if (const json* schema = inner.Find("json"); schema != nullptr) SetSchema("structured_outputs.json", *schema);
    if (const json* regex = inner.Find("regex"); regex != nullptr) SetRegex("structured_outputs.regex", *regex);
    if (const json* texts = inner.Find("choice"); texts != nullptr) SetChoices("structured_outputs.choice", *texts);
    if (inner.Bool("json_object").value_or(false)) Set("structured_outputs.json_object")->set_json_object(true);
    inner.Unsupported({"grammar", "structural_tag", "whitespace_pattern", "disable_any_whitespace"});
    if (const absl::Status status = inner.Finish(); !status.ok()) fields_.Fail(status);
  }

  void SetSchema(const std::string& field, const json& schema) {
    // A schema may come as text too, as vLLM takes it.
    if (schema.is_string()) {
      Set(field)->set_json_schema(schema.get<std::string>());
    } else {
      absl::string_view text = body_text_;
      for (const absl::string_view name : absl::StrSplit(field, '.')) text = JsonMember(text, name);
      Set(field)->set_json_schema(std::string(text));
    }
    Check(field);
  }

  void SetRegex(const std::string& field, const json& regex) {
    if (!regex.is_string()) return fields_.Fail(field, "must be a string");
    Set(field)->set_regex(regex.get<std::string>());
    Check(field);
  }

  void SetChoices(const std::string& field, const json& choices) {
    if (!choices.is_array()) return fields_.Fail(field, "must be a list of strings");
    v1::Choices* texts = Set(field)->mutable_choices();
    for (size_t i = 0; i < choices.size(); ++i) {
      if (!choices[i].is_string()) return fields_.Fail(absl::StrCat(field, "[", i, "]"), "must be a string");
      texts->add_texts(choices[i].get<std::string>());
    }
    Check(field);
  }

  v1::Grammar* Set(const std::string& field) {
    if (request_.has_grammar())
      fields_.Fail(field, "stands beside another field that asks for a format: give one of them");
    return request_.mutable_grammar();
  }

  // The dispatcher would refuse it too, but knows the field by another name.
  void Check(const std::string& field) {
    const absl::StatusOr<GrammarSpec> spec = ToGrammarSpec(request_.grammar());
    const absl::Status status = spec.ok() ? CompileGrammar(*spec).status() : spec.status();
    if (!status.ok()) fields_.Fail(field, status.message());
  }

  BodyFields& fields_;
  const absl::string_view body_text_;
  v1::GenerateRequest& request_;
};

}  // namespace

void ReadFormat(BodyFields& fields, absl::string_view body_text, v1::GenerateRequest& request) {
  FormatReader(fields, body_text, request).Read();
}

}  // namespace conclave
