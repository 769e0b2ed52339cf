// Files of a model directory that somebody else wrote: read with a limit, parsed with a limit on nesting.
#ifndef CONCLAVE_MOE_TOKENIZER_JSON_FILE_H_
#define CONCLAVE_MOE_TOKENIZER_JSON_FILE_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// The whole file. NOT_FOUND: it does not exist. INVALID_ARGUMENT: not a regular file, or larger than `bytes_max`.
absl::StatusOr<std::string> ReadFileUpTo(const std::string& path, int64_t bytes_max);

// Parses JSON whose top level is an object. INVALID_ARGUMENT names `file` and the place: not JSON, not UTF-8, nested
// deeper than limits::kJsonDepthMax, not an object.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view file);

// Optional members of an object; absent and null are the same. INVALID_ARGUMENT names `file` and the member when it
// has another type.
absl::StatusOr<std::optional<bool>> OptionalBool(const nlohmann::json& object, const char* name,
                                                 absl::string_view file);
absl::StatusOr<std::optional<std::string>> OptionalString(const nlohmann::json& object, const char* name,
                                                          absl::string_view file);
// A member that must be a string.
absl::StatusOr<std::string> RequiredString(const nlohmann::json& object, const char* name, absl::string_view file);

// "FILE: message".
absl::Status FileError(absl::string_view file, absl::string_view message);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_JSON_FILE_H_
