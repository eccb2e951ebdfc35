module.exports = {
  getInitialDataSet: () => [
    { MeasuringPoint: '1000', MeasuringPointDescription: 'Pump 1 temperature', MeasurementRangeUnit: 'GC' },
    { MeasuringPoint: '1001', MeasuringPointDescription: 'Pump 2 temperature', MeasurementRangeUnit: 'GC' },
    { MeasuringPoint: '1002', MeasuringPointDescription: '', MeasurementRangeUnit: '' },
  ],
};
