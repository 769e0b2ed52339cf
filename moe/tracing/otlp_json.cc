#include "moe/tracing/otlp_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

constexpr int kStatusError = 2;
// Bits of Span.flags beside W3C's: whether the parent is known to be remote, and whether it is.
constexpr int kFlagHasIsRemote = 0x100, kFlagIsRemote = 0x200;

std::string UnixNanos(absl::Time time) { return absl::StrCat(absl::ToUnixNanos(time)); }

struct ValueWriter {
  JsonWriter& json;
  void operator()(const std::string& value) const { json.Key("stringValue").Text(value); }
  void operator()(int64_t value) const { json.Key("intValue").Text(absl::StrCat(value)); }
  void operator()(double value) const { json.Key("doubleValue").Real(value); }
  void operator()(bool value) const { json.Key("boolValue").Bool(value); }
  void operator()(const std::vector<std::string>& values) const {
    json.Key("arrayValue").BeginObject().Key("values").BeginArray();
    for (const std::string& value : values) json.BeginObject().Key("stringValue").Text(value).End();
    json.End().End();
  }
};

void WriteAttributes(JsonWriter& json, const std::vector<SpanAttribute>& attributes) {
  json.Key("attributes").BeginArray();
  for (const SpanAttribute& attribute : attributes) {
    json.BeginObject().Key("key").Text(attribute.key).Key("value").BeginObject();
    std::visit(ValueWriter{json}, attribute.value);
    json.End().End();
  }
  json.End();
}

void WriteSpan(JsonWriter& json, const Span& span) {
  json.BeginObject().Key("traceId").Text(Hex(span.context.trace_id)).Key("spanId").Text(Hex(span.context.span_id));
  if (!span.context.state.empty()) json.Key("traceState").Text(span.context.state);
  if (span.parent != SpanId{}) json.Key("parentSpanId").Text(Hex(span.parent));
  json.Key("flags").Number((span.context.sampled ? 1 : 0) | kFlagHasIsRemote |
                           (span.remote_parent ? kFlagIsRemote : 0));
  json.Key("name").Text(span.name).Key("kind").Number(static_cast<int>(span.kind));
  json.Key("startTimeUnixNano").Text(UnixNanos(span.start));
  json.Key("endTimeUnixNano").Text(UnixNanos(std::max(span.start, span.end)));
  WriteAttributes(json, span.attributes);
  json.Key("status").BeginObject();
  if (!span.error.empty()) json.Key("code").Number(kStatusError).Key("message").Text(span.error);
  json.End().End();
}

}  // namespace

std::string OtlpTraces(const std::vector<SpanAttribute>& resource, absl::Span<const Span> spans) {
  JsonWriter json;
  json.BeginObject().Key("resourceSpans").BeginArray().BeginObject();
  json.Key("resource").BeginObject();
  WriteAttributes(json, resource);
  json.End().Key("scopeSpans").BeginArray().BeginObject();
  json.Key("scope").BeginObject().Key("name").Text("conclave").End().Key("spans").BeginArray();
  for (const Span& span : spans) WriteSpan(json, span);
  return json.End().End().End().End().End().End().text();
}

int64_t RejectedSpans(absl::string_view answer) {
  const auto body = nlohmann::json::parse(answer.begin(), answer.end(), nullptr, /*allow_exceptions=*/false);
  if (!body.is_object()) return 0;
  const auto partial = body.find("partialSuccess");
  if (partial == body.end() || !partial->is_object()) return 0;
  const auto rejected = partial->find("rejectedSpans");
  if (rejected == partial->end()) return 0;
  int64_t count = 0;
  if (rejected->is_number_integer()) {
    count = rejected->get<int64_t>();
  } else if (rejected->is_string() && !absl::SimpleAtoi(rejected->get_ref<const std::string&>(), &count)) {
    count = 0;
  }
  return std::max<int64_t>(count, 0);
}

}  // namespace conclave
