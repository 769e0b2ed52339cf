// What every JSON text from a model directory must satisfy before it is read into a tree.
#ifndef CONCLAVE_MOE_CHECKPOINT_STRICT_JSON_H_
#define CONCLAVE_MOE_CHECKPOINT_STRICT_JSON_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Checks that `text` is one JSON value in UTF-8, at most limits::kJsonDepthMax deep, in which no object has a key
// twice (parsers silently keep one of the two). INVALID_ARGUMENT says what is wrong and where; stack use is bounded.
absl::Status CheckStrictJson(absl::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_STRICT_JSON_H_
