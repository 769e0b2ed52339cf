// The config.json of published models, in the fields that describe the model: what the parser must read for ever.
#ifndef CONCLAVE_MOE_CHECKPOINT_PUBLISHED_CONFIGS_H_
#define CONCLAVE_MOE_CHECKPOINT_PUBLISHED_CONFIGS_H_

namespace conclave::published_configs {

extern const char kDeepSeekV3[];  // also R1; V3.1 differs in scale_fmt
extern const char kDeepSeekV31[];
extern const char kDeepSeekV2[];
extern const char kDeepSeekV2Lite[];
extern const char kKimiK2[];
extern const char kMoonlight[];

}  // namespace conclave::published_configs

#endif  // CONCLAVE_MOE_CHECKPOINT_PUBLISHED_CONFIGS_H_
