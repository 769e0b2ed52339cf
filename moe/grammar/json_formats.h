// The formats of JSON Schema that strings can be held to.
#ifndef CONCLAVE_MOE_GRAMMAR_JSON_FORMATS_H_
#define CONCLAVE_MOE_GRAMMAR_JSON_FORMATS_H_

#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

// The pattern of a format, of the whole text; empty where the format is not known. Each matches a choice of what the
// format allows: years from 1000 to 9999, no leap seconds, at most six digits behind a second.
std::string PatternOfFormat(absl::string_view format);
// "date, time, …"
std::string KnownFormats();

}  // namespace conclave

#endif  // CONCLAVE_MOE_GRAMMAR_JSON_FORMATS_H_
