#include "moe/tracing/trace_context.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

constexpr size_t kTraceparentBytes = 55;  // of version 00
constexpr size_t kTracestateBytesMax = 512;
constexpr int kTracestateMembersMax = 32;

bool IsLowerHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

template <size_t N>
std::array<uint8_t, N> FromHex(absl::string_view text) {
  std::array<uint8_t, N> id{};
  std::memcpy(id.data(), absl::HexStringToBytes(text).data(), N);
  return id;
}

template <size_t N>
std::string ToHex(const std::array<uint8_t, N>& id) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(id.data()), N));
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(absl::string_view value) {
  if (value.size() < kTraceparentBytes || value[2] != '-' || value[35] != '-' || value[52] != '-') return std::nullopt;
  const absl::string_view version = value.substr(0, 2), trace = value.substr(3, 32), span = value.substr(36, 16),
                          flags = value.substr(53, 2);
  if (!IsLowerHex(version) || !IsLowerHex(trace) || !IsLowerHex(span) || !IsLowerHex(flags)) return std::nullopt;
  if (version == "ff") return std::nullopt;
  if (value.size() > kTraceparentBytes && (version == "00" || value[kTraceparentBytes] != '-')) return std::nullopt;
  TraceContext context;
  context.trace_id = FromHex<16>(trace);
  context.span_id = FromHex<8>(span);
  context.sampled = (FromHex<1>(flags)[0] & 1) != 0;
  context.remote = true;
  if (!context.valid()) return std::nullopt;
  return context;
}

std::string FormatTraceparent(const TraceContext& context) {
  return absl::StrCat("00-", Hex(context.trace_id), "-", Hex(context.span_id), context.sampled ? "-01" : "-00");
}

std::string CheckedTracestate(absl::string_view value) {
  value = absl::StripAsciiWhitespace(value);
  if (value.size() > kTracestateBytesMax) return "";
  if (std::count(value.begin(), value.end(), ',') >= kTracestateMembersMax) return "";
  const bool printable = std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; });
  return printable ? std::string(value) : "";
}

std::string Hex(const TraceId& id) { return ToHex(id); }
std::string Hex(const SpanId& id) { return ToHex(id); }

}  // namespace conclave
