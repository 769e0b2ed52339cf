// Finding and reading the files of a model directory, with one policy on links: a link may lead to another place
// inside the directory (a Kubernetes mount's ..data) or inside the models--* folder of the Hugging Face cache
// that the directory belongs to, and nowhere else.
#ifndef CONCLAVE_MOE_CHECKPOINT_MODEL_FILE_H_
#define CONCLAVE_MOE_CHECKPOINT_MODEL_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// The path of `name` in `directory` with every link resolved. `directory` itself may be a link: the user named it.
// INVALID_ARGUMENT: `name` is not a plain file name, or a link leads elsewhere. NOT_FOUND: no such file.
absl::StatusOr<std::string> ResolveModelFile(const std::string& directory, absl::string_view name);

// Whether `name` exists in `directory`, dangling links included.
bool ModelFileExists(const std::string& directory, absl::string_view name);

// The text of `name` in `directory`. The errors of ResolveModelFile; INVALID_ARGUMENT beyond `bytes_max`.
absl::StatusOr<std::string> ReadModelFile(const std::string& directory, absl::string_view name, int64_t bytes_max);

// The same for a file outside any model directory, such as one that a flag names.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t bytes_max);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_MODEL_FILE_H_
