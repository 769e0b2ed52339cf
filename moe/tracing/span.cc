#include "moe/tracing/span.h"

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

bool IsServersFault(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

void Span::SetStatus(const absl::Status& status) {
  if (status.ok() || !sampled()) return;
  const std::string code = absl::StatusCodeToString(status.code());
  Set("error.type", code);
  if (kind == SpanKind::kClient || IsServersFault(status.code())) error = absl::StrCat(code, ": ", status.message());
}

}  // namespace conclave
