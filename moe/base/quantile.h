// Quantiles of samples.
#ifndef CONCLAVE_MOE_BASE_QUANTILE_H_
#define CONCLAVE_MOE_BASE_QUANTILE_H_

#include <vector>

namespace conclave {

// The quantile `q` of 0 to 1, between the two samples next to it by straight line (Hyndman and Fan 1996, definition 7;
// NumPy's default, which vLLM's benchmark uses). REQUIRES: `sorted` ascending and not empty
double Quantile(const std::vector<double>& sorted, double q);

// The same of samples in any order; 0 where there is none.
double QuantileOf(std::vector<double> samples, double q);
double MedianOf(std::vector<double> samples);

}  // namespace conclave

#endif  // CONCLAVE_MOE_BASE_QUANTILE_H_
