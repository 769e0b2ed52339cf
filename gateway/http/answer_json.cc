#include "gateway/http/answer_json.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "moe/base/json_writer.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

std::string Lossy(const std::string& bytes) {
  std::string text;
  AppendLossyUtf8(bytes, /*final=*/true, &text);
  return text;
}

void TextOrNull(JsonWriter& json, const std::string& text) { text.empty() ? json.Null() : json.Text(text); }

void WriteChatToken(JsonWriter& json, const v1::TokenLogprob& token, bool with_top) {
  json.BeginObject().Key("token").Text(Lossy(token.token())).Key("logprob").Float32(token.logprob());
  json.Key("bytes").BeginArray();
  for (const char byte : token.token()) json.Number(static_cast<unsigned char>(byte));
  json.End();
  if (with_top) {
    json.Key("top_logprobs").BeginArray();
    for (const v1::TokenLogprob& other : token.top()) WriteChatToken(json, other, false);
    json.End();
  }
  json.End();
}

void WriteChatLogprobs(JsonWriter& json, const AnswerPiece& piece) {
  json.BeginObject().Key("content").BeginArray();
  for (const v1::TokenLogprob& token : piece.logprobs) WriteChatToken(json, token, true);
  json.End().Key("refusal").Null().End();
}

// The four lists of /v1/completions.
void WriteCompletionLogprobs(JsonWriter& json, const AnswerPiece& piece) {
  const auto has_value = [&](size_t i) { return i >= static_cast<size_t>(piece.first_without); };
  json.BeginObject().Key("tokens").BeginArray();
  for (const v1::TokenLogprob& token : piece.logprobs) json.Text(TokenName(token.token()));
  json.End().Key("token_logprobs").BeginArray();
  for (size_t i = 0; i < piece.logprobs.size(); ++i) {
    has_value(i) ? json.Float32(piece.logprobs[i].logprob()) : json.Null();
  }
  json.End().Key("top_logprobs").BeginArray();
  for (size_t i = 0; i < piece.logprobs.size(); ++i) {
    if (!has_value(i)) {
      json.Null();
      continue;
    }
    json.BeginObject();
    for (const v1::TokenLogprob& other : piece.logprobs[i].top()) {
      json.Key(TokenName(other.token())).Float32(other.logprob());
    }
    json.End();
  }
  json.End().Key("text_offset").BeginArray();
  int64_t offset = piece.text_offset;
  size_t at = 0;  // in bytes; special tokens have a name and no place in the text
  for (const v1::TokenLogprob& token : piece.logprobs) {
    json.Number(offset);
    if (piece.text.compare(at, token.token().size(), token.token()) != 0) continue;
    at += token.token().size();
    for (const char byte : token.token()) offset += (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
  }
  json.End().End();
}

void WriteLogprobs(JsonWriter& json, bool chat, const AnswerPiece& piece) {
  json.Key("logprobs");
  if (!piece.has_logprobs) {
    json.Null();
  } else {
    chat ? WriteChatLogprobs(json, piece) : WriteCompletionLogprobs(json, piece);
  }
}

// "token_experts": [{"id": 17, "experts": {"1": [3, 8], "2": [0, 5]}}, …], by layer.
void WriteTokenExperts(JsonWriter& json, const std::vector<TokenWithExperts>& tokens) {
  json.Key("token_experts").BeginArray();
  for (const TokenWithExperts& token : tokens) {
    json.BeginObject().Key("id").Number(token.id).Key("experts").BeginObject();
    for (const v1::LayerExperts& layer : token.experts.layers()) {
      json.Key(absl::StrCat(layer.layer())).Numbers(layer.experts());
    }
    json.End().End();
  }
  json.End();
}

void WriteUsage(JsonWriter& json, const AnswerUsage& usage) {
  json.BeginObject().Key("prompt_tokens").Number(usage.prompt_tokens);
  json.Key("completion_tokens").Number(usage.completion_tokens);
  json.Key("total_tokens").Number(usage.prompt_tokens + usage.completion_tokens);
  json.Key("prompt_tokens_details").BeginObject().Key("cached_tokens").Number(usage.cached_tokens).End().End();
}

void WriteHead(JsonWriter& json, const AnswerHead& head, absl::string_view object) {
  json.BeginObject().Key("id").Text(head.id).Key("object").Text(object).Key("created").Number(head.created);
  json.Key("model").Text(head.model).Key("system_fingerprint");
  TextOrNull(json, head.system_fingerprint);
}

void WriteEnd(JsonWriter& json, const AnswerPiece& piece) {
  json.Key("finish_reason");
  TextOrNull(json, piece.finish_reason);
  if (!piece.logits_hash.empty()) json.Key("logits_hash").Text(piece.logits_hash);
  if (!piece.token_experts.empty()) WriteTokenExperts(json, piece.token_experts);
  json.End();
}

// Of a part of a call, only what it has; `whole` calls have no index.
void WriteToolCalls(JsonWriter& json, const AnswerPiece& piece, bool whole) {
  json.Key("tool_calls").BeginArray();
  for (const v1::ToolCallDelta& call : piece.tool_calls) {
    json.BeginObject();
    if (!whole) json.Key("index").Number(call.index());
    if (!call.id().empty()) json.Key("id").Text(call.id()).Key("type").Text("function");
    json.Key("function").BeginObject();
    if (!call.name().empty()) json.Key("name").Text(call.name());
    json.Key("arguments").Text(call.arguments()).End().End();
  }
  json.End();
}

void WriteMessage(JsonWriter& json, const AnswerPiece& piece) {
  json.Key("message").BeginObject().Key("role").Text("assistant").Key("content");
  piece.text.empty() && !piece.tool_calls.empty() ? json.Null() : json.Text(piece.text);
  if (piece.has_reasoning) {
    json.Key("reasoning_content");
    TextOrNull(json, piece.reasoning);
  }
  if (!piece.tool_calls.empty()) WriteToolCalls(json, piece, /*whole=*/true);
  json.Key("refusal").Null().End();
}

void WriteDelta(JsonWriter& json, const AnswerPiece& piece) {
  json.Key("delta").BeginObject();
  if (piece.has_role) json.Key("role").Text("assistant");
  if (!piece.text.empty() || piece.has_role) json.Key("content").Text(piece.text);
  if (!piece.reasoning.empty()) json.Key("reasoning_content").Text(piece.reasoning);
  if (!piece.tool_calls.empty()) WriteToolCalls(json, piece, /*whole=*/false);
  json.End();
}

}  // namespace

std::string TokenName(const std::string& bytes) {
  if (IsUtf8(bytes)) return bytes;
  std::string name = "bytes:";
  for (const char byte : bytes) absl::StrAppendFormat(&name, "\\x%02x", static_cast<unsigned char>(byte));
  return name;
}

std::string WholeAnswer(const AnswerHead& head, absl::Span<const AnswerPiece> choices, const AnswerUsage& usage) {
  JsonWriter json;
  WriteHead(json, head, head.chat ? "chat.completion" : "text_completion");
  json.Key("choices").BeginArray();
  for (const AnswerPiece& choice : choices) {
    json.BeginObject().Key("index").Number(choice.index);
    if (head.chat) {
      WriteMessage(json, choice);
    } else {
      json.Key("text").Text(choice.text);
    }
    WriteLogprobs(json, head.chat, choice);
    WriteEnd(json, choice);
  }
  json.End().Key("usage");
  WriteUsage(json, usage);
  return json.End().text();
}

std::string ChunkOfAnswer(const AnswerHead& head, const AnswerPiece& piece, ChunkUsage with_usage,
                          const AnswerUsage& usage) {
  JsonWriter json;
  WriteHead(json, head, head.chat ? "chat.completion.chunk" : "text_completion");
  json.Key("choices").BeginArray().BeginObject().Key("index").Number(piece.index);
  if (head.chat) {
    WriteDelta(json, piece);
  } else {
    json.Key("text").Text(piece.text);
  }
  WriteLogprobs(json, head.chat, piece);
  WriteEnd(json, piece);
  json.End();
  if (with_usage == ChunkUsage::kNull) json.Key("usage").Null();
  if (with_usage == ChunkUsage::kGiven) {
    json.Key("usage");
    WriteUsage(json, usage);
  }
  return json.End().text();
}

std::string UsageChunk(const AnswerHead& head, const AnswerUsage& usage) {
  JsonWriter json;
  WriteHead(json, head, head.chat ? "chat.completion.chunk" : "text_completion");
  json.Key("choices").BeginArray().End().Key("usage");
  WriteUsage(json, usage);
  return json.End().text();
}

std::string SseEvent(absl::string_view json) { return absl::StrCat("data: ", json, "\n\n"); }

}  // namespace conclave
